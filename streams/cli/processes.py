"""`worker`, `gateway`, `emulate`: programs that run until they are stopped; `migrate`, `connectors`: what they need."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

ROLES = ("plan", "apply", "dispatch", "jobs")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("syncline worker", "syncline worker --roles plan,apply"))(worker)
    app.command(epilog=examples("syncline gateway", "SYNCLINE_GATEWAY_PORT=8080 syncline gateway"))(gateway)
    app.command(epilog=examples("syncline migrate"))(migrate)
    app.command(
        epilog=examples(
            "syncline emulate mock-sync-server --port 3000",
            "syncline emulate mock-sync-server --seed-records 500 --latency 20 --fault 5xx-after:0.05",
        )
    )(emulate)
    group = typer.Typer(help="Look after the Debezium connector.", no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("apply", epilog=examples("syncline connectors apply", "syncline connectors apply --new-slot"))(apply)
    app.add_typer(group, name="connectors")


def worker(
    roles: Annotated[str, typer.Option(metavar="ROLE,…", help=f"Which of {', '.join(ROLES)}.")] = ",".join(ROLES),
) -> None:
    """Run a worker until it is stopped.

    Start as many as you need, on any machine that reaches Postgres and Kafka.
    """
    wanted = [role.strip() for role in roles.split(",") if role.strip()]
    if not wanted or not set(wanted) <= set(ROLES):
        raise typer.BadParameter(f"choose from {', '.join(ROLES)}", param_hint="--roles")
    from streams.roles import run_worker
    from streams.status import note_worker

    loaded = session.settings()
    note_worker(loaded.home, wanted)
    run_worker(loaded, wanted)


def gateway() -> None:
    """Run the gateway: webhooks, REST API, metrics."""
    from streams.gateway.serve import run

    run(session.settings())


def migrate(as_json: session.Json = False) -> None:
    """Bring the database to this release and this model. Run it as often as you like."""
    from streams.store.migrate import migrate as run

    report = run(session.settings())
    if as_json:
        show.as_json(asdict(report) | {"changed": report.changed})
        return
    if not report.changed:
        show.say("Nothing to do: the database is up to date.")
    for name, what in asdict(report).items():
        if what:
            show.say(f"{name}: {'made' if what is True else show.cell(list(what))}")


def emulate(
    system: Annotated[str, typer.Argument(help="Type of the system, for example mock-sync-server.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed_records: Annotated[int, typer.Option(min=0, help="Records it starts with.")] = 0,
    latency: Annotated[float, typer.Option(min=0, metavar="MS", help="Added to every answer.")] = 0,
    fault: Annotated[
        list[str] | None, typer.Option(metavar="KIND:RATE", help="Misbehave, for example 429:0.1.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of its dice: the same seed, the same faults.")] = 0,
) -> None:
    """Run an emulator of an external system.

    Real envelopes, status codes, paging and signed webhooks, to try things without an account. Its control API is under
    /_emulator.
    """
    from connectors.emulators.faults import parse_option
    from connectors.emulators.server import run

    faults: list[dict[str, Any]] = [parse_option(text) for text in fault or []]
    run(system, host, port, seed_records=seed_records, latency_ms=latency, faults=faults, seed=seed)


def apply(
    new_slot: Annotated[
        bool, typer.Option("--new-slot", help="Replace a lost slot; the sweep plans what it missed.")
    ] = False,
    as_json: session.Json = False,
) -> None:
    """Set up capture as it must be.

    Makes topics, publication, slot and the Debezium connector where they are missing or differ; repeating it changes
    nothing.
    """
    import asyncio

    from streams import capture, topics
    from streams.store.migrate import model_of

    loaded = session.settings()
    table = topics.table(model_of(loaded).order)
    made = topics.ensure(loaded.kafka_bootstrap, partitions=loaded.kafka_partitions, topics=table)
    ensured = asyncio.run(capture.ensure(loaded, new_slot=new_slot))
    told = {"topics": made, **asdict(ensured)}
    if as_json:
        show.as_json(told)
    elif not any(told.values()):
        show.say("Nothing to do: all is as it must be.")
    else:
        show.pairs({name: value for name, value in told.items() if value})
