"""Connecting, changing and leaving, on a real Postgres."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging

import psycopg
import pytest
from pydantic import SecretStr

from connectors import config
from schemas.problems import Problem
from streams import connections, vault
from streams.choices import Choices
from streams.store import connections as store
from streams.store import credentials

pytestmark = pytest.mark.integration

CANARY = "canary-7b1c9d5e"
DOCUMENT = {
    "externalSync": {
        "type": "mock-sync-server",
        "url": "http://localhost:3000/mock-sync",
        "auth": "api-key",
        "extraFields": [{"name": "batchSize", "value": "25"}, {"name": "apiKey", "value": CANARY}],
    }
}
ORG = "org_main"


@pytest.fixture
async def conn(database):
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as opened:
        await opened.execute("delete from sync.push_intent; delete from sync.audit; delete from sync.connection")
        yield opened


@pytest.fixture
def service():
    key = vault.parse_key(base64.b64encode(bytes(range(32))), "test")

    async def plan_all(conn, org_id, connection, manifest, reason):
        return 7

    return connections.Service(key, "https://sync.example.org", "cli:ann", plan_all)


async def connect(service, conn, name="mock", choices=None, *, update=False, **changes):
    document = {**DOCUMENT["externalSync"], **changes}
    return await service.connect(conn, ORG, name, config.load(document), choices or Choices(), update=update)


async def rows(conn, statement, *values):
    return await (await conn.execute(statement, values)).fetchall()


@pytest.mark.covers("F001", "F002", "F012", "F085", "F095")
async def test_the_sample_document_connects(service, conn):
    made = await service.connect(conn, ORG, "mock", config.load(json.dumps(DOCUMENT)), Choices(option=2))
    row = made.connection
    assert (row.system, row.url, row.auth) == ("mock-sync-server", "http://localhost:3000/mock-sync", "api-key")
    assert row.settings == {"batchSize": "25"}
    assert (row.option, row.mode, row.delete_policy, row.state, row.epoch) == (2, "both", "ignore", "active", 1)
    assert row.gates
    assert set(row.gates.values()) == {"live"}
    assert row.is_live(next(iter(row.gates)))
    assert await store.list_active(conn, ORG) == [row]


@pytest.mark.covers("F085", "C21")
async def test_secrets_are_in_the_vault_and_nowhere_else(service, conn, caplog):
    caplog.set_level(logging.DEBUG)
    made = await connect(service, conn)
    place = vault.Place(ORG, "mock-sync-server", "mock", "apiKey")
    assert (await credentials.get(conn, service.key, place)).get_secret_value() == CANARY
    secrets = [CANARY, made.webhook.secret.get_secret_value(), made.webhook.url.get_secret_value().rpartition("/")[2]]
    dumped = ""
    for table in ("connection", "credential", "webhook_endpoint", "audit"):
        dumped += str(await rows(conn, f"select t::text, to_jsonb(t) from sync.{table} t"))
    for secret in secrets:
        assert len(secret) >= len(CANARY)
        for place_to_look in (dumped, caplog.text, repr(made), str(made)):
            assert secret not in place_to_look
        assert secret.encode().hex() not in dumped


async def test_the_webhook_address_is_known_by_hash_only(service, conn):
    made = await connect(service, conn)
    url = made.webhook.url.get_secret_value()
    assert url.startswith("https://sync.example.org/hooks/")
    token = url.rpartition("/")[2]
    assert len(token) == 43
    assert await rows(conn, "select token_hash, connection from sync.webhook_endpoint") == [
        (hashlib.sha256(token.encode()).digest(), "mock")
    ]
    secret = made.webhook.secret.get_secret_value()
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 24
    shown = await service.reveal_webhook(conn, ORG, "mock")
    assert shown == made.webhook
    audited = await rows(conn, "select action from sync.audit where actor = 'cli:ann' order by id")
    assert audited == [("connection.connect",), ("connection.reveal_webhook",)]


@pytest.mark.covers("F004", "F023")
async def test_a_type_without_adapter_is_named_word_for_word(service, conn):
    with pytest.raises(Problem) as caught:
        await connect(service, conn, type="custom-adapter")
    assert caught.value.cause == "No adapter available for type: custom-adapter"
    assert await store.list_all(conn, ORG) == []


@pytest.mark.covers("F085")
@pytest.mark.parametrize(
    ("url", "allowed", "code"),
    [
        ("http://sync.example.org/x", False, "http_refused"),
        ("http://sync.example.org/x", True, None),
        ("http://127.0.0.1:3000/x", False, None),
        ("http://[::1]:3000/x", False, None),
        ("https://sync.example.org/x", False, None),
        ("https://10.0.0.7/x", False, "address_refused"),
        ("ftp://sync.example.org/x", True, "config_invalid"),
    ],
)
async def test_plain_http_is_for_this_machine_only(service, conn, url, allowed, code):
    if code is None:
        await connect(service, conn, choices=Choices(allow_http=allowed), url=url)
        return
    with pytest.raises(Problem) as caught:
        await connect(service, conn, choices=Choices(allow_http=allowed), url=url)
    assert caught.value.code == code


@pytest.mark.covers("F016")
async def test_sync_interval_is_milliseconds(service, conn):
    made = await connect(service, conn, extraFields=[{"name": "syncInterval", "value": "300000"}])
    assert made.connection.poll_interval_s == 300
    with pytest.raises(Problem, match="whole milliseconds"):
        await connect(service, conn, "other", extraFields=[{"name": "syncInterval", "value": "soon"}])


@pytest.mark.covers("F094", "F097")
async def test_waiting_rows_are_counted(service, conn):
    await conn.execute("delete from canon.person; insert into canon.person (first_name) values ('Ann'), ('Bo')")
    await conn.execute("insert into canon.person (first_name, deleted_at) values ('Gone', now())")
    assert (await connect(service, conn)).waiting["person"] == 2
    assert await service.push_all(conn, ORG, "mock") == 7


async def test_scope_is_what_was_asked_for(service, conn):
    made = await connect(service, conn, choices=Choices(entity_types=["person"]))
    assert made.connection.gates == {"person": "live"}
    with pytest.raises(Problem) as caught:
        await connect(service, conn, "other", choices=Choices(entity_types=["spaceship"]))
    assert caught.value.code == "type_not_taken"


async def test_a_name_is_taken_once_and_update_changes_it(service, conn):
    first = await connect(service, conn)
    with pytest.raises(Problem) as caught:
        await connect(service, conn)
    assert caught.value.code == "connection_exists"
    second = await connect(service, conn, update=True, choices=Choices(option=3), extraFields=[])
    assert (second.connection.epoch, second.connection.option) == (2, 3)
    assert second.webhook == first.webhook
    assert [n.name for n in await credentials.list_names(conn, ORG, "mock")] == ["webhook_secret/1", "webhook_token"]


async def test_two_who_connect_at_once_make_one(service, conn, database):
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as other:
        ended = await asyncio.gather(connect(service, conn), connect(service, other), return_exceptions=True)
    assert [each.code for each in ended if isinstance(each, Problem)] == ["connection_exists"]
    assert len(await rows(conn, "select 1 from sync.webhook_endpoint")) == 1


@pytest.mark.parametrize("name", ["local", "bulk", "Upper", "", "a b", "-x", "x" * 64, "a/b"])
async def test_names_the_table_refuses_are_refused_before(service, conn, name):
    with pytest.raises(Problem) as caught:
        await connect(service, conn, name)
    assert caught.value.code == "name_invalid"


async def test_pause_and_resume_raise_the_epoch_and_notify(service, conn, database):
    await connect(service, conn)
    async with await psycopg.AsyncConnection.connect(database.dsn("app"), autocommit=True) as listener:
        await listener.execute("listen sync_connection")
        paused = await service.pause(conn, ORG, "mock", "holiday")
        assert (paused.state, paused.state_reason, paused.epoch) == ("paused", "holiday", 2)
        assert await store.list_active(conn) == []
        resumed = await service.resume(conn, ORG, "mock")
        assert (resumed.state, resumed.state_reason, resumed.epoch) == ("active", None, 3)
        heard = [note.payload async for note in listener.notifies(timeout=5, stop_after=2)]
    assert heard == [f"{ORG}/mock"] * 2


async def test_disconnecting_destroys_secrets_and_keeps_links(service, conn):
    await connect(service, conn)
    await conn.execute(
        """insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, entity_id,
                                           sync_key, made_by)
           values ('org_main', 'mock', 'person', 'x1', 'person', 'person_1', 'org_main/person_1', 'push')"""
    )
    gone = await service.disconnect(conn, ORG, "mock")
    assert gone.state == "disconnected"
    assert await credentials.list_names(conn, ORG, "mock") == []
    assert await rows(conn, "select 1 from sync.webhook_endpoint") == []
    for act in (service.pause, service.resume, service.disconnect, service.push_all):
        with pytest.raises(Problem) as caught:
            await act(conn, ORG, "mock")
        assert caught.value.code == "not_connected"
    back = await connect(service, conn)
    assert back.connection.state == "active"
    assert len(await rows(conn, "select 1 from sync.external_link")) == 1
    await conn.execute("delete from sync.external_link")


async def test_unknown_connections_are_named(service, conn):
    with pytest.raises(Problem) as caught:
        await service.pause(conn, ORG, "nowhere")
    assert caught.value.code == "connection_unknown"


async def test_a_failed_connect_leaves_nothing(conn):
    async def plan_all(conn, org_id, connection, manifest, reason):
        return 0

    def no_chance(length):
        raise OSError("no entropy")

    broken = connections.Service(vault.parse_key(base64.b64encode(bytes(32)), "t"), "", "cli", plan_all, no_chance)
    with pytest.raises(OSError, match="entropy"):
        await connect(broken, conn)
    assert await store.list_all(conn) == []
    assert await rows(conn, "select 1 from sync.audit") == []


@pytest.mark.covers("F085")
async def test_swapped_rows_do_not_open(service, conn):
    await connect(service, conn, "one")
    await connect(service, conn, "two", extraFields=[{"name": "apiKey", "value": "another-secret"}])
    await conn.execute(
        """update sync.credential c set sealed = o.sealed, wrapped_key = o.wrapped_key from sync.credential o
           where c.connection = 'one' and o.connection = 'two' and c.name = 'apiKey' and o.name = 'apiKey'"""
    )
    with pytest.raises(Problem) as caught:
        await credentials.adapter_secrets(conn, service.key, vault.Place(ORG, "mock-sync-server", "one", ""))
    assert caught.value.code == "credential_tampered"
    assert "another-secret" not in str(caught.value)


async def test_two_webhook_secrets_live_while_one_is_rotated(service, conn, database):
    await connect(service, conn)
    place = vault.Place(ORG, "mock-sync-server", "mock", "")
    now, end = [row[0] for row in await rows(conn, "select now() union all select now() + '1 h' order by 1")]
    first = await credentials.newest_webhook_secret(conn, service.key, place)
    for value in ("whsec_second", "whsec_third"):
        await credentials.rotate_webhook_secret(conn, service.key, place, SecretStr(value), not_after=end)
    values = [s.get_secret_value() for s in await credentials.webhook_secrets(conn, service.key, place, now)]
    assert values == ["whsec_third", "whsec_second"]
    assert first.get_secret_value() not in values
    assert len(await credentials.webhook_secrets(conn, service.key, place, end)) == 1


async def test_the_adapter_gets_plain_and_secret_settings(service, conn):
    made = await connect(service, conn)
    place = vault.Place(ORG, "mock-sync-server", "mock", "")
    given = await credentials.adapter_secrets(conn, service.key, place)
    assert set(given) == {"apiKey"}
    client = connections.open_client(made.connection, given, http=None)
    assert client._settings.batch_size == 25
    assert client._settings.api_key.get_secret_value() == CANARY
