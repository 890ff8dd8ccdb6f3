"""`status` and `why`: how everything stands, and why one record did or did not sync."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

if TYPE_CHECKING:
    from streams.rules.explanations import Facts
    from streams.why import Report


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("syncline status", "syncline status --json | jq .lag"))(status)
    app.command(
        epilog=examples(
            "syncline why person_01h45ytscbebyvny4gc8cr8ma2",
            "syncline why 1894  (an id of the other side)",
        )
    )(why)


def status(as_json: session.Json = False) -> None:
    """Show what runs and how each connection stands.

    Also how far behind each consumer is. With --json it holds the database's address and the API's token, so that
    scripts need no guessing: treat that output as a secret.
    """
    from streams.status import gather

    loaded = session.settings()
    told = session.run(gather(loaded, session.org(loaded), session.now()))
    if as_json:
        show.as_json(told)
        return
    show.say(f"organisation {told['org']}, home {told['home']}")
    for name, cause in told["unreachable"].items():
        show.say(f"✗ {name}: {show.cell(cause)}")
    _section("components", {"name": "COMPONENT", "state": "STATE", "pid": "PID", "port": "PORT"}, _components(told))
    _section("workers", {"pid": "WORKER PID", "roles": "ROLES"}, told["workers"])
    columns = {
        "name": "CONNECTION", "state": "STATE", "intents": "PUSHES", "oldest": "OLDEST WAITING", "polled": "LAST POLL",
        "full": "ALL READ IN FULL",
        "lastPushExternalSyncTimestamp": "PUSHED THROUGH", "lastPullExternalSyncTimestamp": "PULLED THROUGH",
        "conflicts": "CONFLICTS", "reviews": "REVIEW", "dead_letters": "DEAD LETTERS",
    }  # fmt: skip
    _section("connections", columns, list(map(_connection, told["connections"])))
    lag = [{"consumer": c, "topic": t, "lag": n} for c, topics in told["lag"].items() for t, n in topics.items()]
    _section("lag", {"consumer": "CONSUMER", "topic": "TOPIC", "lag": "RECORDS BEHIND"}, lag)
    for what, single, plural in (("conflicts", "conflict", "conflicts"), ("reviews", "review item", "review items")):
        count, age = told[what]["open"], show.span(told[what]["oldest_s"])
        if count:
            waits = f"{single} waits for a person, for" if count == 1 else f"{plural} wait for a person, the oldest for"
            late = f", {told[what]['overdue']} overdue" if told[what]["overdue"] else ""
            show.say(f"{count} {waits} {age}{late}: see `syncline {what} list`.")
    if told["dead_letters"]:
        show.say(f"{told['dead_letters']} dead letters: see them with `syncline dead-letters list`.")


def why(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Our id (person_01h…) or theirs.")],
    as_json: session.Json = False,
) -> None:
    """Say why a record did or did not sync.

    Connection by connection: the reason, the last tries with the time of every hop, the last events from there.
    """
    from connectors import registry
    from streams.store.migrate import model_of
    from streams.why import Asker
    from streams.why import why as ask

    loaded = session.settings()
    asker = Asker(session.org(loaded), model_of(loaded), lambda system: registry.find(system).manifest, session.now())

    async def work() -> list[Report]:
        async with session.database(loaded) as conn:
            return await ask(conn, id_, asker)

    reports = session.run(work())
    if as_json:
        show.as_json([report.as_json() for report in reports])
        return
    for report in reports:
        _tell(report)


def _components(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, **part} for name, part in told["components"].items()]


def _connection(row: Mapping[str, Any]) -> dict[str, Any]:
    polled = [poll["polled_at"] for poll in row["polls"].values() if poll["polled_at"]]
    full = [poll["read_in_full_at"] for poll in row["polls"].values()]
    reason = f" ({row['state_reason']})" if row["state_reason"] else ""
    return {
        **row,
        "state": row["state"] + reason,
        "oldest": show.span(row["oldest_waiting_s"]),
        "polled": max(polled, default=None),
        "full": None if None in full else min(full, default=None),
    }


def _section(_: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        show.say(" ")
        show.table(columns, rows)


def _tell(report: Report) -> None:
    row = report.entity
    if row is None:
        show.say(f"{report.asked}: a record of theirs without a row of ours")
    else:
        gone = f", deleted {show.cell(row.deleted_at)}" if row.deleted_at else ""
        part = f", part of {report.root}" if report.root != row.id else ""
        when = show.cell(row.modified_at)
        show.say(f"{row.id}: version {row.version}, last change from {row.origin} at {when}{gone}{part}")
    if not report.connections:
        show.say("  There is no connection yet. Make one with `syncline connect`.")
    for facts, sentence in report.connections:
        show.say(f"\n{facts.connection} ({facts.system}, option {facts.option}, {facts.state}): {show.cell(sentence)}")
        if facts.link:
            gone = " (link taken away)" if facts.link.deleted_at else ""
            show.say(f"  their record: {show.cell(f'{facts.link.external_type} {facts.link.external_id}')}{gone}")
        _hops(facts)
        for lost in facts.losers:
            again = f", restored {show.cell(lost.restored_at)}" if lost.restored_at else ""
            said = f"{lost.winner} won ({lost.rule}){again}, number {lost.id} in `syncline conflicts log`"
            show.say(f"  conflict {show.cell(lost.decided_at)}  {lost.field}: {said}")


def _hops(facts: Facts) -> None:
    for d in facts.deliveries:
        hops = {
            "committed": d.committed_at, "planned": d.planned_at, "claimed": d.claimed_at, "sent": d.sent_at,
            "answered": d.answered_at,
        }  # fmt: skip
        times = ", ".join(f"{name} {at:%H:%M:%S.%f}"[:-3] for name, at in hops.items() if at)
        answer = f" {d.status}" if d.status else ""
        show.say(
            f"  push {show.cell(d.recorded_at)}  {d.op} → {show.cell(d.outcome)}{answer}, try {d.attempt}: {times}"
        )
    for e in facts.decisions:
        show.say(f"  event {show.cell(e.applied_at)}  {e.source} → {e.decision} ({show.cell(e.reason)})")
