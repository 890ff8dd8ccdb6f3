"""What Prometheus is told of the database, and the books of rule R25, on a real Postgres."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import structlog
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from psycopg_pool import AsyncConnectionPool

from connectors.contract import Delivered, Failed
from connectors.errors import NotApplied, Rejected
from streams.gateway.measures import FAMILIES
from streams.gateway.metrics import Exposition
from streams.resources import BY_KEY
from streams.settings import Settings
from streams.store import accounting, deliveries
from streams.store.accounting import RouteKey
from tests.integration.scripted import NOW, Outbound, outbound_of

pytestmark = pytest.mark.integration
CANARY = "Zebedee-Canary"


@pytest.fixture
async def out(database: Settings, request: pytest.FixtureRequest) -> AsyncIterator[Outbound]:
    async with outbound_of(database, f"org_{request.node.name[:40].lower()}") as found:
        yield found


@pytest.fixture
async def exposed(database: Settings, out: Outbound):
    """`await exposed()`: (metric, further label values …) -> value, of the test's organisation."""
    kwargs = {"autocommit": True, "prepare_threshold": 1, "options": BY_KEY}
    async with AsyncConnectionPool(database.dsn("app"), min_size=1, max_size=2, open=False, kwargs=kwargs) as pool:

        async def read(at: datetime = NOW) -> dict[tuple[str, ...], float]:
            text = (await Exposition(pool, now=lambda: at).text()).decode()
            found = {}
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    labels = dict(sample.labels)
                    if labels.pop("org", out.org) == out.org:
                        labels.pop("connection", None)
                        found[sample.name, *(labels[key] for key in sorted(labels))] = sample.value
            return found

        yield read


async def told_of(out: Outbound) -> None:
    """One delivered, one refused, one waiting for its second try, one not tried yet."""
    ids = [await out.insert(first_name=name) for name in ("good", "bad", "later")]
    await out.plan(*ids)

    def answer(sent):
        match sent["payload"]["firstName"]:
            case "bad":
                return Failed(Rejected("rejected", f"{CANARY} is bad", status=422))
            case "later":
                return Failed(NotApplied("unreachable", "no connection"))
            case _:
                return Delivered(str(sent["id"]), 201)

    out.theirs.answer = answer
    await out.round()
    await out.plan(await out.insert(first_name="new"))


@pytest.mark.covers("F087", "F091", "R25")
async def test_queues_totals_and_books_are_told(out: Outbound, exposed) -> None:
    await told_of(out)
    told = await exposed(NOW + timedelta(seconds=30))
    external_type = out.manifest.for_root("person").external_type

    assert told["syncline_connection", "active"] == 1
    assert told["syncline_intents", external_type, "PENDING"] == 1
    assert told["syncline_intents", external_type, "RETRY"] == 1
    assert told["syncline_intents", external_type, "DEAD"] == 1
    assert told["syncline_queue_age_seconds", "PENDING"] == 30
    assert told["syncline_dead_letters", "push"] == 1
    assert told["syncline_deliveries_total", "person", "delivered"] == 1
    assert told["syncline_deliveries_total", "person", "rejected"] == 1
    assert told["syncline_success_ratio",] == pytest.approx(1 / 3)
    assert told["syncline_entities_synced_total", "person"] == 1
    assert told["syncline_errors_encountered_total",] == 2
    assert told["syncline_retry_attempts_total",] == 0
    assert told["syncline_bytes_transferred_total",] == sum(map(len, out.theirs.bodies))
    assert told["syncline_sync_duration_seconds_total",] == 0
    accounts = {account: told["syncline_account", account] for account in ("wished", "confirmed", "pending", "dead")}
    assert accounts == {"wished": 4, "confirmed": 1, "pending": 2, "dead": 1}
    assert told["syncline_unreconciled", "wishes"] == 0
    assert told["syncline_capture_safe",] in (0, 1)


@pytest.mark.covers("F062")
async def test_what_waits_for_a_person_is_counted(out: Outbound, exposed) -> None:
    person = await out.insert()
    for field, minutes in (("first_name", 5), ("last_name", 2)):
        await out.sql(
            """insert into sync.conflict (org_id, connection, entity_type, entity_id, field, event_id, opened_at)
               values (%s, %s, 'person', %s, %s, '\\x01', %s)""",
            out.org, out.name, person, field, NOW - timedelta(minutes=minutes),
        )  # fmt: skip
    await out.sql(
        """insert into sync.review (org_id, connection, kind, entity_type, subject)
           values (%s, %s, 'constraint', 'person', 'x')""",
        out.org, out.name,
    )  # fmt: skip
    told = await exposed(NOW)
    assert told["syncline_conflicts_open", "person"] == 2
    assert told["syncline_conflict_age_seconds", "person"] == 300
    assert told["syncline_reviews_open", "constraint"] == 1
    assert told["syncline_conflicts_overdue", "person"] == 0
    late = await exposed(NOW + timedelta(days=7))
    assert late["syncline_conflicts_overdue", "person"] == 2


async def test_no_metric_is_named_that_is_not_declared(exposed, out: Outbound) -> None:
    await told_of(out)
    names = {name.removesuffix("_total") for name, *_ in await exposed()}
    assert names <= {*FAMILIES, "syncline_metrics_age_seconds"}


@pytest.mark.covers("R25")
async def test_a_wish_that_is_nowhere_shows_when_it_is_five_minutes_old(out: Outbound, exposed) -> None:
    await out.plan(await out.insert())
    await out.sql("update sync.push_intent set state = 'DONE' where org_id = %s", out.org)

    assert (await exposed(NOW + timedelta(minutes=4)))["syncline_unreconciled", "wishes"] == 0
    assert (await exposed(NOW + timedelta(minutes=6)))["syncline_unreconciled", "wishes"] == 1


@pytest.mark.covers("R25")
async def test_a_change_that_went_nowhere_shows(out: Outbound, exposed) -> None:
    scope = out.org, out.name, "person"
    await out.plan(await out.insert())
    routes = Counter({RouteKey(*scope, "push", "linked"): 1, RouteKey(*scope, "skip", "own_echo"): 2})
    for _ in range(2):
        await accounting.count_routes(out.conn, routes, Counter({scope: 3}), now=NOW)
    told = await exposed()
    assert (told["syncline_unreconciled", "routes"], told["syncline_account", "seen"]) == (0, 7)
    assert told["syncline_routes_total", "person", "own_echo", "skip"] == 4
    assert told["syncline_unreconciled", "raised"] == 2  # three were planned, one wish was raised

    await accounting.count_routes(out.conn, Counter(), Counter({scope: 1}), now=NOW)
    assert (await exposed())["syncline_unreconciled", "routes"] == 1


async def test_totals_stay_when_old_days_become_one(out: Outbound, exposed) -> None:
    await told_of(out)
    scope = out.org, out.name, "person"
    for day in range(3):
        at = NOW - timedelta(days=day)
        await accounting.count_routes(out.conn, Counter({RouteKey(*scope, "push", "linked"): 1}), Counter(), now=at)
    before = await exposed()
    for days in (401, 402):
        await accounting.fold(out.conn, now=NOW + timedelta(days=days))
    after = await exposed()

    assert {k: v for k, v in before.items() if k[0].endswith("_total")} == {
        k: v for k, v in after.items() if k[0].endswith("_total")
    }
    rows = "select count(*) from sync.route_count where org_id = %s and reason = 'linked'"
    assert await out.sql(rows, out.org) == 1


@pytest.mark.covers("F065")
async def test_a_delivery_holds_what_it_changed(out: Outbound) -> None:
    person = await out.insert(first_name="Ann", last_name="Lee")
    await out.plan(person)
    await out.round()
    await out.sql("update canon.person set first_name = 'Eve' where id = %s", person)
    await out.plan(person)
    await out.round()
    kept = await out.conn.execute(
        "select op, reason, sync_key, before->>'first_name', delta, bytes from sync.delivery where entity_id = %s"
        " order by id",
        (person,),
    )
    (op, *_, created, size), (*told, delta, _) = await kept.fetchall()

    assert op == "create"
    assert {"field": "first_name", "new": "Ann"} in created["changes"]
    assert size == len(out.theirs.bodies[0])
    assert told == ["update", "change", f"{out.org}/{person}", "Ann"]
    assert delta["changes"] == [{"field": "first_name", "old": "Ann", "new": "Eve"}]
    assert (delta["removed"], delta["version"]) == ([], 2)
    assert datetime.fromisoformat(delta["timestamp"])


async def test_deliveries_go_by_the_day(out: Outbound) -> None:
    today = datetime.now(UTC)
    row = {
        "external_type": "P", "entity_type": "person", "entity_id": "p", "sync_key": "k", "external_id": None,
        "op": "update", "outcome": "delivered", "status": 200, "cause": None, "reason": "change", "before": None,
        "sent": None, "changed": [], "attempt": 1, "idem_key": "k", "seq": 1, "committed_at": None,
        "planned_at": None, "claimed_at": today, "sent_at": today, "answered_at": today,
    }  # fmt: skip
    days = [today - timedelta(days=40), today, today + timedelta(days=30)]
    for day in days:
        await deliveries.record(out.conn, out.org, out.name, [row], now=day)

    async def kept() -> list[tuple[str, str]]:
        query = "select tableoid::regclass::text, recorded_at from sync.delivery where org_id = %s order by recorded_at"
        return [(table, str(at)) for table, at in await (await out.conn.execute(query, (out.org,))).fetchall()]

    part = f"sync.delivery_{today:%Y%m%d}"
    assert [table for table, _ in await kept()] == ["sync.delivery_rest", part, "sync.delivery_rest"]
    await accounting.keep_deliveries(out.conn, kept_days=30, now=today)
    assert [table for table, _ in await kept()] == [part, "sync.delivery_rest"]
    later = await accounting.keep_deliveries(out.conn, kept_days=30, now=today + timedelta(days=30))
    assert later.made == 7  # not that of a day whose rows came before it
    assert later.dropped == 0
    assert (await accounting.keep_deliveries(out.conn, kept_days=30, now=today + timedelta(days=31))).dropped == 1
    assert [table for table, _ in await kept()] == ["sync.delivery_rest"]


async def test_nobody_but_the_workers_drops_deliveries(database: Settings) -> None:
    async with await psycopg.AsyncConnection.connect(database.dsn("applier"), autocommit=True) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await accounting.keep_deliveries(conn, kept_days=1, now=datetime.now(UTC))


@pytest.mark.covers("F137", "R23")
async def test_no_log_line_of_a_delivery_and_no_metric_says_whom_it_is_about(out: Outbound, exposed, capsys) -> None:
    from streams import logging as ours

    before = structlog.get_config()
    handlers, level = logging.root.handlers[:], logging.root.level

    def broken(_: object) -> bytes:
        raise ValueError(CANARY)

    ours.configure("debug", json=True)
    try:
        ids = [await out.insert(first_name=CANARY, last_name=f"{CANARY} {n}") for n in range(4)]
        await out.plan(*ids)
        answers = iter([
            Failed(Rejected("rejected", f"{CANARY} is bad", status=422)),
            Failed(NotApplied("busy", f"{CANARY} later", status=503)),
            Delivered(CANARY, 201),
        ])  # fmt: skip
        out.theirs.answer = lambda _: next(answers, Failed(Rejected("odd", CANARY, status=422)))
        await out.round()
        unbuildable = out.theirs.build
        out.theirs.build = broken  # type: ignore[method-assign]
        await out.plan(await out.insert(first_name=CANARY))
        await out.round()
        out.theirs.build = unbuildable  # type: ignore[method-assign]
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level
        structlog.configure(**before)
    lines = capsys.readouterr().err
    told = str(await exposed()) + str(list(REGISTRY.collect()))

    assert "write_unbuildable" in lines, "the log lines were not caught"
    assert CANARY not in lines
    assert CANARY not in told
