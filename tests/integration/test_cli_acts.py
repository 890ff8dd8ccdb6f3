"""The commands against a real Postgres: from connecting to leaving."""

from __future__ import annotations

import base64
import json

import psycopg
import pytest

from streams.cli import app

pytestmark = pytest.mark.integration

CANARY = "canary-5d2e9f1a"
DOCUMENT = {
    "externalSync": {
        "type": "mock-sync-server",
        "url": "http://localhost:3000/mock-sync",
        "extraFields": [{"name": "batchSize", "value": "25"}, {"name": "apiKey", "value": CANARY}],
    },
    "forms": [{"title": "of the larger document"}],
}


@pytest.fixture
def admin(database):
    with psycopg.connect(database.dsn("owner"), autocommit=True) as conn:
        conn.execute(
            """truncate sync.push_intent, sync.dead_letter, sync.audit; delete from sync.connection;
               delete from canon.person"""
        )
        yield conn


@pytest.fixture
def syncline(database, admin, monkeypatch, capfd):
    (database.home / "key").write_bytes(base64.b64encode(bytes(range(32))))
    monkeypatch.setenv("SYNCLINE_HOME", str(database.home))
    for role in ("app", "applier", "owner", "capture"):
        monkeypatch.setenv(f"SYNCLINE_POSTGRES_{role.upper()}_DSN", database.dsn(role))

    def run(*arguments: str, code: int = 0):
        capfd.readouterr()
        ended = app.run(list(arguments))
        out, err = capfd.readouterr()
        assert ended == code, err
        return json.loads(out) if "--json" in arguments else out + err

    return run


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "sync.json"
    path.write_text(json.dumps(DOCUMENT))
    return str(path)


@pytest.mark.covers("F001", "F002", "F094", "F097", "F099")
def test_from_connecting_to_leaving(syncline, document, admin):
    [person] = admin.execute("insert into canon.person (first_name) values ('Ann') returning id").fetchone()
    said = syncline("connect", document, "--name", "clinic", "--option", "2")
    assert "clinic is connected to mock-sync-server (option 2" in said
    assert "person 1; send them with: syncline push --all clinic" in said
    assert CANARY not in said
    assert "`syncline push --all`" in syncline("why", person)
    assert syncline("push", "--all", "clinic", "--json")["planned"] == 1
    told = syncline("status", "--json")
    assert told["connections"][0]["intents"] == {"PENDING": 1}
    assert told["connections"][0]["oldest_waiting_s"] >= 0
    assert "PENDING 1" in syncline("status")
    syncline("connections", "pause", "clinic", "--reason", "their upgrade")
    assert "paused (their upgrade)" in syncline("why", person)
    assert syncline("connections", "resume", "clinic", "--json")["state"] == "active"
    hook = syncline("connections", "webhook", "clinic", "--json")
    assert hook["secret"].startswith("whsec_")
    syncline("disconnect", "clinic", "--yes")
    assert syncline("connections", "list", "--json")[0]["state"] == "disconnected"
    [[listed]] = admin.execute("select array_agg(action order by id) from sync.audit").fetchall()
    assert [action.removeprefix("connection.") for action in listed] == [
        "connect", "push_all", "pause", "resume", "reveal_webhook", "disconnect",
    ]  # fmt: skip
    [[actor]] = admin.execute("select distinct actor from sync.audit").fetchall()
    assert actor.startswith("cli")


@pytest.mark.covers("F006", "F007", "F016")
def test_arguments_instead_of_a_file(syncline, tmp_path):
    (tmp_path / "secret").write_text(f"{CANARY}\n")
    told = syncline(
        "connect", "--type", "mock-sync-server", "--url", "https://sync.example.org/x", "--auth", "basic",
        "--set", "syncInterval=300000", "--set", "username=ann", "--secret", f"shade=@{tmp_path / 'secret'}", "--json",
    )  # fmt: skip
    assert told["name"] == "mock-sync-server"
    shown = syncline("connections", "show", "mock-sync-server", "--json")
    assert shown["poll_interval_s"] == 300
    assert shown["settings"] == {"syncInterval": "300000", "username": "ann"}
    assert set(shown["secrets"]) == {"shade", "webhook_secret/1", "webhook_token"}
    assert CANARY not in json.dumps(shown)


def test_mistakes_are_named(syncline, document, tmp_path):
    assert "No adapter available for type: nothing" in syncline(
        "connect", "--type", "nothing", "--url", "https://x.org", code=1
    )
    assert "file_unreadable" in syncline("connect", str(tmp_path / "absent.json"), code=1)
    (tmp_path / "bad.json").write_text('{"externalSync": {"type": "x", }')
    assert "is no JSON" in syncline("connect", str(tmp_path / "bad.json"), code=1)
    syncline("connect", document, "--name", "clinic")
    assert "connection_exists" in syncline("connect", document, "--name", "clinic", code=1)
    syncline("connect", document, "--name", "clinic", "--update", "--option", "3")
    assert "connection_unknown" in syncline("push", "--all", "elsewhere", code=1)
    assert "id_unknown" in syncline("why", "spaceship_01h45ytscbebyvny4gc8cr8ma2", code=1)


def test_another_organisation_sees_nothing(syncline, document):
    syncline("connect", document, "--name", "clinic")
    assert syncline("--org", "org_other", "connections", "list", "--json") == []
    assert "connection_unknown" in syncline("--org", "org_other", "connections", "show", "clinic", code=1)


def test_looking_at_a_payload_is_audited(syncline, admin):
    [number] = admin.execute(
        """insert into sync.dead_letter (org_id, source, record_key, value, code, cause)
           values ('org_main', 'inbound.events', 'mock/person/1', 'Ann Example', 'unreadable', 'no JSON')
           returning id"""
    ).fetchone()
    assert "Ann" not in syncline("dead-letters", "list") + syncline("dead-letters", "show", str(number))
    assert admin.execute("select count(*) from sync.audit").fetchone() == (0,)
    assert "Ann Example" in syncline("dead-letters", "show", str(number), "--payload")
    assert admin.execute("select action, subject from sync.audit").fetchall() == [("dead_letter.read", str(number))]


def test_a_database_without_tables_says_what_to_do(syncline, fresh_database, monkeypatch, postgres):
    monkeypatch.setenv("SYNCLINE_POSTGRES_APP_DSN", fresh_database.dsn("app"))
    assert "not_migrated" in syncline("connections", "list", code=1)
    assert "not migrated" in syncline("status")
