"""The REST API in process, on a real Postgres: who may call, what comes back, and that nothing breaks it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr

from connectors import registry
from schemas.problems import Problem
from streams import connections, vault
from streams.cli import app as cli
from streams.gateway import access, api
from streams.store.migrate import model_of

pytestmark = pytest.mark.integration

TOKEN = "token-for-tests-0123456789"
CANARY = "canary-3f8a6b2c"
AUTH = {"authorization": f"Bearer {TOKEN}"}
SYNC = {
    "type": "mock-sync-server",
    "url": "http://localhost:3000/mock-sync",
    "extraFields": [{"name": "apiKey", "value": CANARY}],
}


class Topic:
    """Stands for Kafka, and takes whatever comes."""

    async def publish(self, facts):
        return [None for _ in facts]


def make_app(settings, pool):
    async def plan_all(conn, org_id, connection, manifest, reason):
        return 3

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    service = connections.Service(
        vault.parse_key(base64.b64encode(bytes(32)), "test"), "https://sync.example.org", "api", plan_all
    )
    services = api.Services(
        settings=settings.model_copy(update={"gateway_token": SecretStr(TOKEN)}),
        pool=pool,
        service=service,
        model=model_of(settings),
        manifest=lambda system: registry.find(system).manifest,
        now=lambda: datetime.now(UTC),
        publisher=Topic(),
    )
    api.install(app, services)
    access.check_routes(app)
    return app


@pytest.fixture
async def pool(database):
    async with AsyncConnectionPool(
        database.dsn("app"), min_size=1, max_size=4, open=False, kwargs={"autocommit": True}
    ) as opened:
        async with opened.connection() as conn:
            await conn.execute("delete from sync.connection; delete from sync.dead_letter; delete from sync.audit")
        yield opened


@pytest.fixture
async def client(database, pool):
    transport = httpx.ASGITransport(make_app(database, pool), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=AUTH) as opened:
        yield opened


def routes(app):
    described = app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in described.items() for method in methods]


async def test_every_route_needs_the_token(client, database, pool):
    app = make_app(database, pool)
    listed = [*routes(app), ("GET", "/v1/openapi.json")]
    assert len(listed) >= 25
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        "Bearer \xff",
    ]
    for method, path in listed:
        for header in wrong:
            given = {"authorization": header.encode("latin-1")}
            answer = await client.request(method, path.replace("{", "").replace("}", ""), headers=given)
            assert answer.status_code == 401, (method, path, header)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "unauthorised"
    twice = [("authorization", f"Bearer {TOKEN}")] * 2
    bare = httpx.AsyncClient(transport=client._transport, base_url="http://api")
    assert (await bare.get("/v1/connections", headers=twice)).status_code == 401
    assert (await bare.get("/v1/connections")).status_code == 401


async def test_no_token_in_the_settings_lets_nobody_in(database, pool):
    app = make_app(database, pool)
    for token in (None, SecretStr("")):
        services = app.state.api
        app.state.api = api.Services(
            settings=services.settings.model_copy(update={"gateway_token": token}),
            pool=pool, service=services.service, model=services.model, manifest=services.manifest, now=services.now,
        )  # fmt: skip
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as bare:
            for header in ("Bearer ", "Bearer None", f"Bearer {TOKEN}"):
                assert (await bare.get("/v1/connections", headers={"authorization": header})).status_code == 401


async def test_a_route_that_was_forgotten_stops_the_start(database, pool):
    app = make_app(database, pool)

    @app.get("/healthz")
    async def healthz():
        return {}

    access.check_routes(app)

    @app.get("/v1/forgotten")
    async def forgotten():
        return {}

    with pytest.raises(Problem) as caught:
        access.check_routes(app)
    assert caught.value.code == "route_unprotected"
    assert "/v1/forgotten" in caught.value.cause


@pytest.mark.covers("F001", "F003")
async def test_the_life_of_a_connection(client):
    made = await client.post("/v1/connections", json={"name": "clinic", "externalSync": SYNC, "option": 2})
    assert made.status_code == 201, made.text
    told = made.json()
    assert told["connection"]["option"] == 2
    assert told["webhook"]["url"].startswith("https://sync.example.org/hooks/")
    assert set(told["waiting"]) == set(told["connection"]["gates"])
    assert (await client.get("/v1/connections")).json() == [told["connection"]]
    assert (await client.post("/v1/connections/clinic/push-all")).json() == {"planned": 3}
    paused = await client.post("/v1/connections/clinic/pause", json={"reason": "their upgrade"})
    assert (paused.json()["state"], paused.json()["state_reason"]) == ("paused", "their upgrade")
    assert (await client.post("/v1/connections/clinic/resume")).json()["state"] == "active"
    assert (await client.delete("/v1/connections/clinic")).json()["state"] == "disconnected"
    assert (await client.delete("/v1/connections/clinic")).status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "x", "externalSync": SYNC, "color": "red"}, 422, "value_invalid"),
        ({"name": "x", "externalSync": {}}, 422, "config_invalid"),
        ({"name": "X", "externalSync": SYNC}, 422, "name_invalid"),
        ({"name": "x", "externalSync": {**SYNC, "type": "nothing"}}, 422, "adapter_unknown"),
        ({"name": "x", "externalSync": {**SYNC, "url": "http://example.org/x"}}, 422, "http_refused"),
        ({"name": "x", "externalSync": {**SYNC, "url": "https://169.254.169.254/x"}}, 422, "address_refused"),
        ({"name": "x", "externalSync": SYNC, "entity_types": ["ship"]}, 422, "type_not_taken"),
        ({"name": "x", "externalSync": SYNC, "option": 4}, 422, "value_invalid"),
        ({"name": "x", "externalSync": {**SYNC, "extraFields": {"batchSize": "\u0000"}}}, 422, "config_invalid"),
        ({"name": "x", "externalSync": {**SYNC, "extraFields": {"other": "a\u0000b"}}}, 422, "value_invalid"),
        ([], 422, "value_invalid"),
    ],
)
async def test_what_cannot_be_connected(client, body, status, code):
    answer = await client.post("/v1/connections", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert CANARY not in answer.text
    assert (await client.get("/v1/connections")).json() == []


async def test_errors_are_problems(client):
    for method, path, status in [
        ("GET", "/v1/connections/nothing", 404), ("GET", "/v1/dead-letters/1", 404), ("GET", "/v1/why/nothing", 404),
        ("GET", "/v1/nothing", 404), ("PUT", "/v1/status", 405), ("GET", "/v1/dead-letters/one", 422),
        ("POST", "/v1/connections", 422),
    ]:  # fmt: skip
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == {"title", "status", "detail", "code", "next_step"}


async def test_dead_letters_come_without_their_content(client, pool):
    async with pool.connection() as conn:
        await conn.execute(
            """insert into sync.dead_letter (org_id, source, record_key, value, code, cause) values
               ('org_main', 'inbound.events', 'mock/person/1', 'Ann Example', 'unreadable', 'no JSON'),
               ('org_other', 'inbound.events', 'mock/person/2', 'Bo', 'unreadable', 'no JSON')"""
        )
    [listed] = (await client.get("/v1/dead-letters")).json()
    shown = await client.get(f"/v1/dead-letters/{listed['id']}")
    assert shown.json()["bytes"] == 11
    assert "Ann" not in shown.text
    assert (await client.get(f"/v1/dead-letters/{listed['id'] + 1}")).status_code == 404


async def test_why_and_status(client, pool):
    await client.post("/v1/connections", json={"name": "clinic", "externalSync": SYNC})
    async with pool.connection() as conn:
        cursor = await conn.execute("insert into canon.person (first_name) values ('Ann') returning id")
        [person] = await cursor.fetchone()
    [report] = (await client.get(f"/v1/why/{person}")).json()
    assert "push --all" in report["connections"][0]["sentence"]
    told = (await client.get("/v1/status")).json()
    assert told["connections"][0]["name"] == "clinic"
    assert told["unreachable"] == {"kafka": "no broker is configured"}


@pytest.fixture
async def clinic(client, pool):
    """A connection with option 3, and somebody to push there."""
    async with pool.connection() as conn:
        await conn.execute("delete from sync.push_intent; delete from sync.external_link; delete from sync.mass_hold")
        cursor = await conn.execute("insert into canon.person (first_name) values ('Ann') returning id")
        [person] = await cursor.fetchone()
    made = await client.post("/v1/connections", json={"name": "clinic", "externalSync": SYNC, "option": 3})
    assert made.status_code == 201, made.text
    yield person
    async with pool.connection() as conn:
        await conn.execute("delete from sync.push_intent; delete from sync.external_link; delete from sync.mass_hold")


ACTIVE = [{"field": "status", "op": "eq", "value": "active"}]


async def test_choices_are_changed_one_at_a_time(client, clinic):
    changed = await client.patch(
        "/v1/connections/clinic",
        json={"filters": {"person": ACTIVE}, "budget": {"calls": 100, "per_s": 20}, "guard": {"updates": None}},
    )
    assert changed.status_code == 200, changed.text
    told = changed.json()
    assert (sorted(told["changed"]), told["needs_resync"]) == (["budget", "filters", "guard"], True)
    assert told["connection"]["filters"] == {"person": ACTIVE}
    assert told["connection"]["guard"] == {"updates": None}
    again = (await client.patch("/v1/connections/clinic", json={"budget": {}, "filters": {"person": []}})).json()
    assert (again["connection"]["budget"], again["connection"]["filters"]) == ({}, {})
    assert again["connection"]["guard"] == {"updates": None}
    nothing = (await client.patch("/v1/connections/clinic", json={})).json()
    assert (nothing["changed"], nothing["connection"]["epoch"]) == ([], again["connection"]["epoch"])
    assert (await client.post("/v1/connections/clinic/resync")).json() == {"planned": 3}


async def test_who_wins_is_chosen_by_type_and_field(client, clinic):
    chosen = {"policy": "manual", "fields": {"gender": "merge:longest"}, "ties": "ours"}
    changed = await client.patch("/v1/connections/clinic", json={"conflict_policies": {"person": chosen}})
    assert changed.status_code == 200, changed.text
    told = changed.json()
    assert (told["changed"], told["needs_resync"]) == (["conflict_policies"], False)
    assert (await client.get("/v1/connections/clinic")).json()["conflict_policies"] == {"person": chosen}
    again = await client.patch("/v1/connections/clinic", json={"conflict_policies": {"person": {}}})
    assert again.json()["connection"]["conflict_policies"] == {}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"filters": {"person": [{"field": "color", "op": "eq", "value": "red"}]}}, "filter_invalid"),
        ({"filters": {"person": [{"field": "status", "op": "eq", "value": None}]}}, "filter_invalid"),
        ({"filters": {"ship": ACTIVE}}, "type_not_taken"),
        ({"fields": {"person": {"include": ["color"]}}}, "fields_invalid"),
        ({"fields": {"person": {"include": ["gender"], "exclude": ["email"]}}}, "fields_invalid"),
        ({"conflict_policies": {"person": {"policy": "newest"}}}, "policy_invalid"),
        ({"conflict_policies": {"person": {"fields": {"gender": "merge:best"}}}}, "resolver_unknown"),
        ({"conflict_policies": {"person": {"winner": "ours"}}}, "value_invalid"),
        ({"delete_policy": "archive"}, "archive_unsupported"),
        ({"budget": {"calls": 5}}, "limit_invalid"),
        ({"guard": {"creates": 5}}, "value_invalid"),
        ({"gates": {"person": "ajar"}}, "value_invalid"),
    ],
)
async def test_choices_that_do_not_fit(client, clinic, body, code):
    answer = await client.patch("/v1/connections/clinic", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert (await client.get("/v1/connections/clinic")).json()["epoch"] == 1


@pytest.mark.covers("F102")
async def test_a_selective_push_and_what_it_waits_for(client, clinic):
    pushed = await client.post("/v1/pushes", json={"ids": [clinic], "connection": "clinic", "link": "x7"})
    assert (pushed.status_code, pushed.json()[0]["state"]) == (202, "PENDING")
    [listed] = (await client.get("/v1/intents", params={"connection": "clinic"})).json()
    assert (listed["entity_id"], listed["reason"], listed["waits_for"]) == (clinic, "selected", [])
    [lane] = (await client.get("/v1/lanes")).json()
    assert (lane["name"], lane["queued"], lane["breakers"]) == ("clinic", 1, [])
    taken = await client.post("/v1/pushes", json={"ids": [clinic], "link": "x8"})
    assert (taken.status_code, taken.json()["code"]) == (409, "link_taken")
    unknown = await client.post("/v1/pushes", json={"ids": ["person_1"]})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "id_unknown")


async def test_what_stands_still_is_decided(client, clinic, pool):
    await client.post("/v1/pushes", json={"ids": [clinic]})
    async with pool.connection() as conn:
        await conn.execute("update sync.push_intent set state = 'PARKED'")
    assert [row["entity_id"] for row in (await client.get("/v1/parked")).json()] == [clinic]
    retried = await client.post(f"/v1/parked/{clinic}/retry", json={})
    assert (retried.status_code, retried.json()) == (202, {"entity_id": clinic, "connection": "clinic"})
    assert (await client.post(f"/v1/parked/{clinic}/drop", json={})).status_code == 409
    async with pool.connection() as conn:
        cursor = await conn.execute(
            """insert into sync.mass_hold (org_id, connection, entity_type, kind, bound, opened_at)
               values ('org_main', 'clinic', 'person', 'deletes', 20, now()) returning id"""
        )
        [hold] = await cursor.fetchone()
        await conn.execute("update sync.push_intent set state = 'HELD', hold_id = %s", (hold,))
    [listed] = (await client.get("/v1/holds")).json()
    assert (listed["records"], listed["bound"]) == (1, 20)
    assert (await client.post(f"/v1/holds/{hold}/approve")).json()["records"] == 1
    assert (await client.post(f"/v1/holds/{hold}/drop")).json()["code"] == "hold_closed"
    assert (await client.post(f"/v1/holds/{hold + 1}/drop")).status_code == 404
    assert (await client.get("/v1/holds")).json() == []


async def test_dead_letters_are_counted_redriven_and_dropped(client, clinic, pool):
    async with pool.connection() as conn:
        await conn.execute(
            """insert into sync.dead_letter (org_id, connection, source, record_key, code, cause)
               select 'org_main', 'clinic', 'cdc.canon.person', 'org_main/' || %s, 'not_avro', 'no Avro'
               from generate_series(1, 3)""",
            (clinic,),
        )
    numbers = sorted(row["id"] for row in (await client.get("/v1/dead-letters")).json())
    everything = {"connection": "clinic"}
    counted = (await client.post("/v1/dead-letters/redrive", json={**everything, "dry_run": True})).json()
    assert counted == {"matched": {"cdc.canon.person": 3}, "redriven": 0, "left": {}}
    assert (await client.post(f"/v1/dead-letters/{numbers[0]}/drop")).status_code == 204
    assert (await client.post(f"/v1/dead-letters/{numbers[1]}/redrive")).status_code == 204
    assert (await client.post(f"/v1/dead-letters/{numbers[1]}/redrive")).status_code == 404
    assert (await client.post("/v1/dead-letters/redrive", json=everything)).json()["redriven"] == 1
    assert (await client.post("/v1/dead-letters/redrive", json={})).status_code == 422
    async with pool.connection() as conn:
        cursor = await conn.execute("select action, actor from sync.audit where action like 'dead%' order by id")
        assert [tuple(row) for row in await cursor.fetchall()] == [
            ("dead_letter.drop", "api"), ("dead_letter.redrive", "api"), ("dead_letter.redrive_many", "api"),
        ]  # fmt: skip


@pytest.fixture
async def asked(client, clinic, pool):
    """A conflict about somebody's name and id; their id."""
    async with pool.connection() as conn:
        await conn.execute("delete from sync.conflict; delete from sync.conflict_log; delete from sync.review")
        await conn.execute("update canon.person set national_id = 'N1' where id = %s", (clinic,))
        for field, values in {"first_name": ("A", "Ann", "Annie"), "national_id": ("N0", "N1", "N2")}.items():
            await conn.execute(
                """insert into sync.conflict
                     (org_id, connection, entity_type, entity_id, field, rule, base, ours, theirs, event_id)
                   values ('org_main', 'clinic', 'person', %s, %s, 'protected', %s, %s, %s, '\\x01')""",
                (clinic, field, *map(json.dumps, values)),
            )
    return clinic


@pytest.mark.covers("F057", "F062")
async def test_conflicts_are_listed_shown_decided_and_restored(client, asked, pool):
    [listed] = (await client.get("/v1/conflicts")).json()
    assert (listed["entity_id"], listed["name"], listed["fields"]) == (asked, "Ann", ["first_name", "national_id"])
    assert (await client.get("/v1/conflicts", params={"after": listed["id"]})).json() == []
    assert (await client.get("/v1/conflicts", params={"older_than_s": 3600})).json() == []
    counts = (await client.get("/v1/conflicts/counts")).json()
    assert [(row["field"], row["count"]) for row in counts] == [("first_name", 1), ("national_id", 1)]
    [case] = (await client.get(f"/v1/conflicts/{asked}")).json()
    [name, _] = case["fields"]
    assert (name["base"], name["ours"], name["theirs"], name["ours_by"]) == ("A", "Ann", "Annie", "local")
    where = f"/v1/conflicts/{asked}/resolve"
    for body, status, code in [
        ({"seen": "x", "take": "ours"}, 409, "conflict_moved"),
        ({"seen": case["seen"]}, 422, "choice_invalid"),
        ({"seen": case["seen"], "choices": {"first_name": {"take": "ours", "value": "x"}}}, 422, "choice_invalid"),
        ({"seen": case["seen"], "choices": {"first_name": {}}}, 422, "choice_invalid"),
        ({"seen": case["seen"], "choices": {"first_name": {"value": 7}}}, 422, "value_invalid"),
        ({"seen": case["seen"], "choices": {"first_name": {"value": "\u0000"}}}, 422, "value_invalid"),
        ({"seen": case["seen"], "choices": {"first_name": {"value": "\ud800"}}}, 422, "value_invalid"),
        ({"seen": case["seen"], "choices": {"\ud800": {"value": "x"}}}, 422, "value_invalid"),
        ({"seen": case["seen"], "choices": {"gender": {"value": "x"}}}, 422, "field_not_asked"),
        ({"seen": case["seen"], "take": "mine"}, 422, "value_invalid"),
        ({"take": "ours"}, 422, "value_invalid"),
    ]:
        answer = await client.post(where, content=json.dumps(body), headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        if code == "conflict_moved":
            assert answer.json()["conflict"] == case
    decided = {"seen": case["seen"], "choices": {"first_name": {"value": None}}, "take": "theirs", "note": "asked"}
    told = await client.post(where, json=decided)
    assert told.json()["resolved"] == {"first_name": "value", "national_id": "theirs"}
    assert told.json()["left"] == []
    assert (await client.post(where, json=decided)).json()["code"] == "conflict_closed"
    assert (await client.get("/v1/conflicts")).json() == []

    log = (await client.get("/v1/conflicts/log", params={"entity": asked, "since": "2020-01-01T00:00:00Z"})).json()
    lost = {row["field"]: row for row in log}
    assert (lost["national_id"]["winner"], lost["national_id"]["decided_by"]) == ("theirs", "api")
    back = f"/v1/conflicts/log/{lost['first_name']['id']}/restore"
    assert (await client.post(back, json={})).json()["code"] == "side_needed"
    assert (await client.post(back, json={"side": "theirs"})).json()["changed"] is True
    assert (await client.post(back, json={"side": "theirs"})).status_code == 409
    assert (await client.post("/v1/conflicts/log/99999999/restore", json={})).status_code == 404
    async with pool.connection() as conn:
        cursor = await conn.execute("select first_name, national_id from canon.person where id = %s", (asked,))
        assert await cursor.fetchone() == ("Annie", "N2")


async def test_reviews_are_listed_tried_again_and_closed(client, asked, pool, database):
    async with pool.connection() as conn:
        await conn.execute(
            """insert into sync.review (org_id, connection, kind, entity_type, subject, value, detail) values
               ('org_main', 'clinic', 'constraint', 'person', 'x7', 'avro', '{"constraint": "one", "payload": "Ann"}'),
               ('org_other', 'clinic', 'constraint', 'person', 'x7', null, '{}')"""
        )
    answer = await client.get("/v1/reviews", params={"kind": "constraint"})
    [item] = answer.json()
    assert (item["detail"], item["can_retry"]) == ({"constraint": "one"}, True)
    assert "Ann" not in answer.text
    here = f"/v1/reviews/{item['id']}"
    assert (await client.get(here)).json() == item
    assert (await client.post(f"{here}/retry")).json()["code"] == "not_redrivable"  # no Kafka at hand

    published = []

    async def republish(org, records):
        published.append((org, *records))

    app = make_app(database, pool)
    app.state.api = replace(app.state.api, republish=republish)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", headers=AUTH) as with_kafka:
        assert (await with_kafka.post(f"{here}/retry")).status_code == 202
    assert published == [("org_main", b"avro")]
    assert (await client.post(f"{here}/close", json={"note": "a test"})).status_code == 204
    assert (await client.post(f"{here}/close", json={})).json()["code"] == "review_closed"
    assert (await client.get("/v1/reviews")).json() == []
    [closed] = (await client.get("/v1/reviews", params={"closed": True})).json()
    assert (closed["note"], closed["closed_by"]) == ("a test", "api")
    assert (await client.get(f"/v1/reviews/{item['id'] + 1}")).status_code == 404


async def test_who_a_record_is_can_be_decided(client, asked, pool):
    async with pool.connection() as conn:
        await conn.execute(
            """insert into sync.review (org_id, connection, kind, entity_type, subject, value, detail)
               select 'org_main', 'clinic', kind, 'person', subject, 'avro', '{"external_type": "individual"}'
               from (values ('match', 'x8'), ('match', 'x9'), ('constraint', 'x7')) v(kind, subject)"""
        )
    link, new, refused = (await client.get("/v1/reviews")).json()
    assert (await client.post(f"/v1/reviews/{link['id']}/assign", json={"to": "ann"})).status_code == 204
    assert (await client.post(f"/v1/conflicts/{asked}/assign", json={"to": "ann"})).status_code == 204
    assert (await client.post("/v1/conflicts/person_x/assign", json={"to": "ann"})).status_code == 404
    assert [each["owner"] for each in (await client.get("/v1/conflicts")).json()] == ["ann"]
    assert [each["subject"] for each in (await client.get("/v1/reviews", params={"after": new["id"]})).json()] == ["x7"]

    async def decide(item, **body):
        answer = await client.post(f"/v1/reviews/{item['id']}/decide", json=body)
        return answer.status_code, answer.json().get("code") or answer.json()["decision"]

    for body in ({}, {"link": asked, "new": True}):
        assert await decide(link, **body) == (422, "choice_invalid")
    assert await decide(refused, new=True) == (409, "not_decidable")
    assert await decide(link, link="person_00000000000000000000000000") == (404, "id_unknown")
    assert await decide(new, new=True) == (202, "new")
    assert await decide(link, link=asked, note="asked her") == (202, "link")
    assert await decide(link, new=True) == (409, "review_decided")
    told = (await client.get(f"/v1/reviews/{link['id']}")).json()
    assert (told["entity_id"], told["decided_by"], told["note"]) == (asked, "api", "asked her")
    assert (told["owner"], told["overdue"]) == ("ann", False)
    assert [each["id"] for each in (await client.get("/v1/reviews")).json()] == [refused["id"]]


async def test_openapi_describes_the_routes_and_the_token(client):
    told = (await client.get("/v1/openapi.json")).json()
    assert told["security"] == [{"token": []}]
    assert told["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert "/v1/connections/{name}/pause" in told["paths"]
    references = {part for part in json.dumps(told).split('"') if part.startswith("#/components/schemas/")}
    assert {ref.rpartition("/")[2] for ref in references} <= set(told["components"]["schemas"])


def test_a_database_that_is_down_is_told(database):
    async def ask():
        down = AsyncConnectionPool("host=127.0.0.1 port=1", min_size=1, open=False, timeout=0.2)
        await down.open(wait=False)
        transport = httpx.ASGITransport(make_app(database, down), raise_app_exceptions=False)
        async with down, httpx.AsyncClient(transport=transport, base_url="http://api", headers=AUTH) as client:
            return await client.get("/v1/connections")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["code"]) == (503, "postgres_unreachable")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
documents = st.fixed_dictionaries(
    {"name": st.sampled_from(["clinic", "x"]) | st.text(max_size=8)},
    optional={
        "externalSync": st.fixed_dictionaries(
            {"type": st.just("mock-sync-server") | st.text(), "url": st.just("https://example.org") | st.text()},
            optional={"extraFields": anything, "auth": anything},
        )
        | anything,
        "option": anything,
        "poll_interval_s": anything,
        "update": st.booleans(),
        "entity_types": anything,
        "filters": anything,
        "fields": anything,
    },
)
texts = st.text(max_size=9)
conditions = st.fixed_dictionaries(
    {"field": st.sampled_from(["status", "birth_date", "modified_at", "version", "custom"]) | texts},
    optional={
        "op": st.sampled_from(["eq", "in", "lt", "is_null", "starts_with"]) | texts,
        "value": st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(texts, max_size=2),
    },
)
choices = st.fixed_dictionaries(
    {},
    optional={
        "filters": st.dictionaries(st.sampled_from(["person", "email"]), st.lists(conditions, max_size=2), max_size=2),
        "fields": st.dictionaries(st.just("person"), st.dictionaries(st.just("include"), st.lists(texts)), max_size=1),
        "guard": st.dictionaries(st.sampled_from(["deletes", "updates"]), st.none() | st.integers(), max_size=2),
        "budget": st.dictionaries(st.sampled_from(["calls", "per_s"]), st.integers() | st.floats(), max_size=2),
        "gates": st.dictionaries(st.just("person") | texts, st.sampled_from(["live", "", "matched"]), max_size=2),
        "concurrency": st.integers(),
        "option": st.integers(),
    },
)
acts = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(texts | st.just("person_00000000000000000000000000"), max_size=2),
        "connection": texts | st.just("clinic"),
        "link": texts,
        "code": texts,
        "source": texts,
        "dry_run": st.booleans(),
        "seen": texts,
        "take": texts | st.sampled_from(["ours", "theirs"]),
        "choices": st.dictionaries(texts, st.dictionaries(st.sampled_from(["take", "value"]), anything, max_size=2)),
        "note": texts,
        "side": texts | st.just("ours"),
    },
)


words = st.sampled_from(["clinic", "1", "\0", "..", "\udcf0", "9" * 25, "-1", "a/b"]) | st.text(max_size=9)


def test_nothing_sent_to_it_breaks_it(database):
    """Routes from OpenAPI, hostile paths, queries and bodies: no 5xx, and every error is a problem."""
    pool = AsyncConnectionPool(database.dsn("app"), min_size=1, open=False, kwargs={"autocommit": True})
    app = make_app(database, pool)
    # Status asks Kafka and the stack; it takes no input.
    listed = st.sampled_from([route for route in routes(app) if route[1] != "/v1/status"])
    named = st.sampled_from(["limit", "closed", "connection", "state", "entity", "since", "before", "after", "kind"])
    queries = st.dictionaries(named, st.text(max_size=9), max_size=3)
    sent = documents | choices | acts
    bodies = sent.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40)

    async def ask(method, path, query, content):
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=AUTH) as client:
            kind = {"content-type": "application/json"}
            return await client.request(method, path, params=query or None, content=content, headers=kind)

    with asyncio.Runner() as runner:
        runner.run(pool.open())
        made = {"name": "clinic", "externalSync": SYNC}
        assert runner.run(ask("POST", "/v1/connections", {}, json.dumps(made).encode())).status_code in (201, 409)

        @settings(max_examples=600, deadline=None)
        @given(route=listed, word=words, query=queries, content=bodies)
        def hold(route, word, query, content):
            method, path = route
            hostile = quote(word, safe="/", errors="surrogateescape")
            answer = runner.run(ask(method, re.sub(r"{.*?}", lambda _: hostile, path), query, content))
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"

        hold()
        runner.run(pool.close())


@pytest.mark.covers("C21")
async def test_a_config_secret_is_in_no_output(client, database, monkeypatch, capfd, caplog):
    """What a connection was given as a secret is found in no answer, listing, error, log or report again."""
    caplog.set_level(logging.DEBUG)
    made = await client.post("/v1/connections", json={"name": "clinic", "externalSync": {**SYNC, "auth": "api-key"}})
    hook = made.json()["webhook"]
    secrets = [CANARY, hook["secret"], hook["url"].rpartition("/")[2]]
    capfd.readouterr()
    seen = [made.text.replace(hook["secret"], "").replace(hook["url"], "")]
    paths = ("/v1/status", "/v1/connections", "/v1/connections/clinic", "/v1/dead-letters", "/v1/openapi.json")
    seen += [(await client.get(path)).text for path in paths]
    again = {"name": "clinic", "externalSync": {**SYNC, "extraFields": {"apiKey": CANARY, "batchSize": CANARY}}}
    seen.append((await client.post("/v1/connections", json=again)).text)
    seen.append((await client.post("/v1/connections", json={"name": "clinic", "externalSync": SYNC})).text)
    async with await psycopg.AsyncConnection.connect(database.dsn("owner")) as conn:
        cursor = await conn.execute("select jsonb_agg(to_jsonb(a)) from sync.audit a")
        seen.append(json.dumps(await cursor.fetchone()))
    for role in ("app", "applier", "owner"):
        monkeypatch.setenv(f"SYNCLINE_POSTGRES_{role.upper()}_DSN", database.dsn(role))
    monkeypatch.setenv("SYNCLINE_HOME", str(database.home))
    seen += [told for arguments in COMMANDS for told in await _told(capfd, *arguments)]
    for text in (*seen, caplog.text):
        for secret in secrets:
            assert secret not in text


COMMANDS = [
    ("status",), ("status", "--json"), ("connections", "list"), ("connections", "list", "--json"),
    ("connections", "show", "clinic"), ("connections", "show", "clinic", "--json"), ("dead-letters", "list", "--json"),
    ("connect", "--type", "mock-sync-server", "--url", "https://example.org", "--set", f"apiKey={CANARY}",
     "--set", "batchSize=many"),
    ("why", CANARY[:4]),
]  # fmt: skip


async def test_bodies_are_capped(client):
    answer = await client.post(
        "/v1/connections", content=b" " * (2**20 + 1), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


async def _told(capfd, *arguments):
    await asyncio.to_thread(cli.run, list(arguments))
    return capfd.readouterr()
