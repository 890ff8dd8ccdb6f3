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
            """truncate sync.push_intent, sync.dead_letter, sync.audit, sync.link_state, sync.external_link;
               delete from sync.connection;
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


@pytest.mark.covers("F124", "F142")
def test_a_type_may_have_an_interval_of_its_own(syncline, document):
    syncline("connect", document, "--name", "clinic", "--poll-interval", "300", "--poll", "individual=60")

    def intervals():
        shown = syncline("connections", "show", "clinic", "--json")
        return shown["poll_interval_s"], shown["poll_intervals"]

    assert intervals() == (300, {"individual": 60})
    syncline("connections", "set", "clinic", "--poll", "campus=86400", "--poll", "individual=default")
    assert intervals() == (300, {"campus": 86400})
    assert "type_not_taken" in syncline("connections", "set", "clinic", "--poll", "unicorn=5", code=1)
    assert "limit_invalid" in syncline("connections", "set", "clinic", "--poll", "campus=0.5", code=1)


@pytest.mark.covers("R20")
def test_how_often_all_is_read_is_a_choice(syncline, document):
    def every():
        return syncline("connections", "show", "clinic", "--json")["full_read_every_s"]

    syncline("connect", document, "--name", "clinic")
    assert every() == 86_400
    syncline("connections", "set", "clinic", "--full-read", "7d")
    syncline("connect", document, "--name", "clinic", "--update")
    assert every() == 7 * 86_400, "what is not named stays"
    syncline("connections", "set", "clinic", "--full-read", "0s")
    assert every() == 0
    assert "limit_invalid" in syncline("connections", "set", "clinic", "--full-read", "500d", code=1)


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


def insert_people(admin, count=1):
    rows = admin.execute(
        "insert into canon.person (first_name) select 'Ann' from generate_series(1, %s) returning id", (count,)
    )
    return [row[0] for row in rows.fetchall()]


def test_choices_are_changed_one_at_a_time(syncline, document, admin):
    said = syncline(
        "connect", document, "--name", "clinic", "--filter", "person:status=active", "--on-leave", "delete",
        "--exclude", "person:national_id,email", "--guard", "deletes=50,updates=off", "--concurrency", "9",
    )  # fmt: skip
    assert "✓ clinic" in said
    shown = syncline("connections", "show", "clinic", "--json")
    assert shown["filters"] == {"person": [{"field": "status", "op": "eq", "value": "active"}]}
    assert shown["fields"] == {"person": {"exclude": ["national_id", "email"]}}
    assert (shown["on_leave"], shown["guard"]) == ("delete", {"deletes": 50, "updates": None})
    assert (shown["concurrency"], shown["epoch"]) == (9, 1)

    said = syncline("connections", "set", "clinic", "--filter", "campus:name starts with A")
    assert "filters changed" in said
    assert "syncline resync clinic" in said
    assert set(syncline("connections", "show", "clinic", "--json")["filters"]) == {"person", "campus"}
    changed = syncline("connections", "set", "clinic", "--filter", "person:none", "--include", "person:all", "--json")
    assert (changed["changed"], changed["needs_resync"], changed["epoch"]) == (["filters", "fields"], True, 3)
    assert (set(changed["filters"]), changed["fields"]) == ({"campus"}, {})

    said = syncline("lanes", "budget", "clinic", "100/20s")
    assert "budget changed" in said
    assert "resync" not in said
    assert "like that already" in syncline("lanes", "budget", "clinic", "100/20s")
    [lane] = syncline("lanes", "--json")
    assert (lane["budget"], lane["queued"]) == ({"calls": 100, "per_s": 20}, 0)
    assert "0 of 100 per 20 s (chosen)" in syncline("lanes")

    syncline("connect", document, "--name", "clinic", "--update", "--option", "2")
    shown = syncline("connections", "show", "clinic", "--json")
    assert (set(shown["filters"]), shown["guard"]["deletes"], shown["option"]) == ({"campus"}, 50, 2)
    actions = admin.execute("select action, detail from sync.audit order by id").fetchall()
    assert [action for action, _ in actions] == [
        "connection.connect", "connection.set", "connection.set", "connection.set", "connection.update",
    ]  # fmt: skip
    assert actions[3][1] == {"budget": {"calls": 100, "per_s": 20}}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--filter", "person:color=red"), "filter_invalid"),
        (("--filter", "person:birth_date<soon"), "filter_invalid"),
        (("--filter", "email:address=x"), "type_not_taken"),
        (("--include", "person:color"), "fields_invalid"),
        (("--exclude", "ship:name"), "type_not_taken"),
        (("--deletes", "archive"), "archive_unsupported"),
        (("--filter", "person:status=active", "--on-leave", "archive"), "archive_unsupported"),
    ],
)
def test_choices_that_do_not_fit_are_refused(syncline, document, arguments, code):
    assert code in syncline("connect", document, "--name", "clinic", *arguments, code=1)
    assert syncline("connections", "list", "--json") == []
    syncline("connect", document, "--name", "clinic")
    assert code in syncline("connections", "set", "clinic", *arguments, code=1)
    assert syncline("connections", "show", "clinic", "--json")["epoch"] == 1


def test_gates_hold_and_let_go(syncline, document, admin):
    syncline("connect", document, "--name", "clinic")
    syncline("connections", "set", "clinic", "--gate", "person=matched")
    [person] = insert_people(admin)
    assert syncline("push", person, "--json")[0]["state"] == "HELD"
    assert "gate 'matched'" in syncline("why", person)
    assert "1 pushes that waited for a gate go on" in syncline("connections", "set", "clinic", "--gate", "person=live")
    assert syncline("intents", "--json")[0]["state"] == "PENDING"
    assert "gate_unknown" in syncline("connections", "set", "clinic", "--gate", "person=ajar", code=1)
    assert "person" not in syncline("connections", "set", "clinic", "--gate", "person=out", "--json")["gates"]


@pytest.mark.covers("F101", "F102")
def test_a_person_pushes_what_option_3_does_not(syncline, document, admin):
    syncline("connect", document, "--name", "clinic", "--option", "3")
    [person, other] = insert_people(admin, 2)
    assert "goes now" in syncline("push", person)
    assert "goes now" in syncline("push", other, "--connection", "clinic", "--link", "1894")
    assert syncline("why", "1894", "--json")[0]["root"] == other
    listed = syncline("intents", "--connection", "clinic", "--json")
    assert {row["reason"] for row in listed} == {"selected"}
    assert person in syncline("intents", "--entity", person)
    assert "id_unknown" in syncline("push", "person_00000000000000000000000000", code=1)


def test_a_resync_is_planned_behind_what_is_live(syncline, document, admin):
    syncline("connect", document, "--name", "clinic")
    insert_people(admin, 3)
    assert "3 pushes planned" in syncline("resync", "clinic")
    assert {row["priority"] for row in syncline("intents", "--json")} == {1}
    assert "QUEUE" in syncline("lanes")
    assert syncline("lanes", "--json")[0]["queued"] == 3


def test_parked_held_and_dead(syncline, document, admin):
    syncline("connect", document, "--name", "clinic")
    people = insert_people(admin, 4)
    for person in people:
        syncline("push", person)
    parked, held, dead, another = people
    state = "update sync.push_intent set state = %s, error_code = %s where entity_id = %s"
    admin.execute(state, ("PARKED", "outcome_unknown", parked))
    [hold] = admin.execute(
        """insert into sync.mass_hold (org_id, connection, entity_type, kind, bound, opened_at)
           values ('org_main', 'clinic', 'person', 'deletes', 20, now()) returning id"""
    ).fetchone()
    admin.execute(state, ("HELD", "mass_change", held))
    admin.execute("update sync.push_intent set hold_id = %s where entity_id = %s", (hold, held))
    for person in (dead, another):
        admin.execute(state, ("DEAD", "invalid", person))
        admin.execute(
            """insert into sync.dead_letter (org_id, connection, source, record_key, position, code, cause)
               values ('org_main', 'clinic', 'push', %s, 'org_main/clinic/individual/' || %s, 'invalid', 'short')""",
            (person, person),
        )

    assert "outcome_unknown" in syncline("parked", "list")
    assert syncline("parked", "show", parked, "--json")[0]["entity_id"] == parked
    assert f"syncline parked retry {parked}" in syncline("why", parked)
    assert "goes to clinic now" in syncline("parked", "retry", parked)
    assert "not_parked" in syncline("parked", "drop", parked, code=1)
    assert "not_parked" in syncline("parked", "show", parked, code=1)

    assert f"mass change, hold {hold}" in syncline("intents")
    assert f"syncline holds approve {hold}" in syncline("why", held)
    assert "deletes" in syncline("holds", "list")
    assert "our rows are gone, and those of clinic stay" in syncline("holds", "drop", str(hold))
    assert "hold_closed" in syncline("holds", "approve", str(hold), code=1)
    assert "dropped this mass change" in syncline("why", held)

    [first, second] = sorted(row["id"] for row in syncline("dead-letters", "list", "--json"))
    assert "--yes" in syncline("dead-letters", "redrive", "--code", "invalid", code=2)
    assert "2 dead letters" in syncline("dead-letters", "redrive", "--code", "invalid", code=2)
    assert "dropped" in syncline("dead-letters", "drop", str(first))
    assert syncline("dead-letters", "redrive", "--connection", "clinic", "--yes", "--json") == {
        "redriven": 1,
        "left": {},
    }
    assert "dead_letter_unknown" in syncline("dead-letters", "redrive", str(second), code=1)
    assert {row["state"] for row in syncline("intents", "--json")} == {"PENDING"}
    [[actions]] = admin.execute(
        "select array_agg(action order by id) from sync.audit where action !~ '^conn'"
    ).fetchall()
    assert actions == [
        *["push.selected"] * 4, "parked.retry", "hold.drop", "dead_letter.drop", "dead_letter.redrive_many",
    ]  # fmt: skip


def test_an_event_needs_kafka_to_be_redriven(syncline, admin):
    [number] = admin.execute(
        """insert into sync.dead_letter (org_id, source, record_key, value, code, cause)
           values ('org_main', 'inbound.events', 'mock/person/1', 'x', 'unreadable', 'no JSON') returning id"""
    ).fetchone()
    assert "not_configured" in syncline("dead-letters", "redrive", str(number), code=1)
    assert "1 dead letters" in syncline("dead-letters", "redrive", "--source", "inbound.events", code=2)


def test_another_organisation_changes_nothing(syncline, document, admin):
    syncline("connect", document, "--name", "clinic")
    [person] = insert_people(admin)
    syncline("push", person)
    other = ("--org", "org_other")
    assert syncline(*other, "intents", "--json") == []
    assert syncline(*other, "lanes", "--json") == []
    assert "connection_unknown" in syncline(*other, "connections", "set", "clinic", "--option", "2", code=1)
    assert "connection_unknown" in syncline(*other, "resync", "clinic", code=1)
    assert "id_unknown" in syncline(*other, "push", person, "--connection", "clinic", code=1)


def test_a_key_is_shown_once_and_revoked(syncline, document, admin):
    admin.execute("delete from sync.api_key")
    syncline("connect", document, "--name", "clinic")
    made = syncline("keys", "create", "etl", "--connection", "clinic", "--json")
    assert made["key"].startswith("slk_")
    assert "key_exists" in syncline("keys", "create", "etl", code=1)
    assert "connection_unknown" in syncline("keys", "create", "other", "--connection", "nowhere", code=1)
    (listed,) = syncline("keys", "list", "--json")
    assert (listed["name"], listed["connection"], listed["revoked_at"]) == ("etl", "clinic", None)
    assert made["key"] not in syncline("keys", "list")
    syncline("keys", "revoke", "etl")
    assert syncline("keys", "list", "--json")[0]["revoked_at"]
    assert "key_unknown" in syncline("keys", "revoke", "other", code=1)


def test_a_webhook_secret_is_rotated_with_an_overlap(syncline, document):
    syncline("connect", document, "--name", "clinic")
    before = syncline("connections", "webhook", "clinic", "--json")
    after = syncline("webhook", "rotate", "clinic", "--overlap", "2", "--json")
    assert after["url"] == before["url"]
    assert after["secret"] != before["secret"]
    shown = syncline("webhook", "show", "clinic", "--json")
    assert [(each["secret"], each["valid"], each["until"] is None) for each in shown["secrets"]] == [
        ("webhook_secret/1", True, False), ("webhook_secret/2", True, True),
    ]  # fmt: skip
    assert shown["subscription"] is None
    assert before["secret"] not in syncline("webhook", "show", "clinic")
    syncline("webhook", "rotate", "clinic", "--overlap", "0")
    assert [each["valid"] for each in syncline("webhook", "show", "clinic", "--json")["secrets"]] == [False, True]
    assert "value_invalid" in syncline("webhook", "rotate", "clinic", "--overlap", "3000", code=1)
    syncline("disconnect", "clinic", "--yes")
    assert "not_connected" in syncline("webhook", "rotate", "clinic", code=1)
