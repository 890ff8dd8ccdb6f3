"""`conflicts` and `reviews` as a person uses them, against a real Postgres."""

from __future__ import annotations

import json

import pytest

from tests.integration import test_cli_acts as acts

pytestmark = pytest.mark.integration
admin, syncline, document = acts.admin, acts.syncline, acts.document

FIELDS = {"first_name": ("Ann", "Anna", "Annie"), "national_id": ("N0", "N1", "N2")}


@pytest.fixture
def clinic(syncline, document, admin):
    """A connection, and somebody whose name and id both sides changed."""
    admin.execute("truncate sync.conflict, sync.conflict_log, sync.review, sync.applied_event")
    syncline("connect", document, "--name", "clinic")
    [person] = admin.execute(
        "insert into canon.person (first_name, last_name, national_id) values ('Anna', 'Lee', 'N1') returning id"
    ).fetchone()
    for field, values in FIELDS.items():
        admin.execute(
            """insert into sync.conflict
                 (org_id, connection, entity_type, entity_id, field, rule, base, ours, theirs, event_id, opened_at)
               values
                 ('org_main', 'clinic', 'person', %s, %s, 'protected', %s, %s, %s, '\\x01', now() - interval '3 h')""",
            (person, field, *map(json.dumps, values)),
        )
    return person


@pytest.mark.covers("F057", "F062")
def test_what_waits_is_found(syncline, clinic):
    said = syncline("conflicts", "list")
    assert clinic in said
    assert "Anna Lee" in said
    assert "3.0 h" in said
    assert [row["field"] for row in syncline("conflicts", "list", "--counts", "--json")] == [
        "first_name",
        "national_id",
    ]
    assert syncline("conflicts", "list", "--older-than", "4h") == "No conflict is open.\n"
    assert "2 conflicts wait for a person, the oldest for 3.0 h" in syncline("status")
    assert syncline("status", "--json")["conflicts"]["open"] == 2
    assert f"`syncline conflicts show {clinic}`" in syncline("why", clinic)

    said = syncline("conflicts", "show", clinic)
    for told in ("Anna Lee", "clinic (mock-sync-server)", "protected", "N0", "N1", "N2", "[local, "):
        assert told in said
    [case] = syncline("conflicts", "show", clinic, "--json")
    assert f"syncline conflicts resolve {clinic} --seen {case['seen']} --take theirs" in said


@pytest.mark.covers("F057")
def test_a_conflict_is_decided_and_what_lost_comes_back(syncline, clinic, admin):
    [case] = syncline("conflicts", "show", clinic, "--json")
    decide = ("conflicts", "resolve", clinic, "--seen", case["seen"])
    said = syncline(*decide, "--theirs", "first_name", "--note", "asked her")
    assert "first_name: theirs is taken over" in said
    assert "Still open: national_id." in said
    moved = syncline(*decide, "--take", "ours", code=1)
    assert "conflict_moved" in moved
    assert "N2" in moved, "it is shown as it is now"
    told = syncline(*decide, "--take", "ours", "--json", code=1)
    assert (told["error"]["code"], len(told["error"]["conflict"]["fields"])) == ("conflict_moved", 1)
    seen = told["error"]["conflict"]["seen"]
    done = syncline("conflicts", "resolve", clinic, "--seen", seen, "--set", "national_id=007", "--json")
    assert (done["resolved"], done["left"]) == ({"national_id": "value"}, [])
    held = admin.execute("select first_name, national_id from canon.person where id = %s", (clinic,)).fetchone()
    assert held == ("Annie", "007")
    assert "by cli" in syncline("conflicts", "show", clinic, code=1)

    said = syncline("conflicts", "log", clinic)
    assert "ours: Anna" in said
    assert "theirs: Annie" in said
    of_id, of_name = syncline("conflicts", "log", "--connection", "clinic", "--since", "1h", "--json")
    assert (of_id["winner"], of_name["winner"]) == ("neither", "theirs")
    assert "side_needed" in syncline("conflicts", "restore", str(of_id["id"]), code=1)
    assert "has its national_id back" in syncline("conflicts", "restore", str(of_id["id"]), "--side", "theirs")
    assert "restored_already" in syncline("conflicts", "restore", str(of_id["id"]), "--side", "theirs", code=1)
    assert syncline("conflicts", "restore", str(of_name["id"]), "--json")["changed"] is True
    assert f"number {of_name['id']} in `syncline conflicts log`" in syncline("why", clinic)
    actions = admin.execute("select action, detail::text from sync.audit where action like 'conflict%' order by id")
    told = actions.fetchall()
    assert [action for action, _ in told] == ["conflict.resolve"] * 2 + ["conflict.restore"] * 2
    assert not [detail for _, detail in told if "Ann" in detail or "007" in detail or "asked" in detail]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("resolve", "ID"), 2, "say what to do"),
        (("resolve", "ID", "--take", "mine"), 2, "ours or theirs"),
        (("resolve", "ID", "--take", "ours"), 2, "syncline conflicts show"),
        (("resolve", "ID", "--set", "first_name"), 2, "FIELD=VALUE"),
        (("resolve", "ID", "--ours", "x", "--theirs", "x", "--seen", "y"), 2, "named twice"),
        (("resolve", "ID", "--take", "ours", "--seen", "nothing"), 1, "conflict_moved"),
        (("resolve", "person_00000000000000000000000000", "--take", "ours", "--seen", "x"), 1, "conflict_unknown"),
        (("show", "ID", "--connection", "elsewhere"), 1, "conflict_unknown"),
        (("list", "--older-than", "soon"), 2, "30min, 2h or 7d"),
        (("log", "--since", "soon"), 2, "2026-03-01"),
        (("restore", "999999"), 1, "loser_unknown"),
    ],
)
def test_mistakes_are_named(syncline, clinic, arguments, code, said):
    told = syncline("conflicts", *[clinic if each == "ID" else each for each in arguments], code=code)
    assert said in " ".join(told.replace("│", "").split())


def test_another_organisation_sees_and_decides_nothing(syncline, clinic):
    other = ("--org", "org_other", "conflicts")
    assert syncline(*other, "list", "--json") == []
    assert "conflict_unknown" in syncline(*other, "show", clinic, code=1)
    assert "conflict_unknown" in syncline(*other, "resolve", clinic, "--take", "ours", "--seen", "x", code=1)
    assert syncline(*other, "log", "--json") == []


def test_what_was_refused_is_looked_at_and_closed(syncline, clinic, admin):
    admin.execute(
        """insert into sync.review (org_id, connection, kind, entity_type, subject, detail, value) values
           ('org_main', 'clinic', 'constraint', 'person', 'x7', %s, 'avro'),
           ('org_main', 'clinic', 'unlinked', 'person', %s, '{}', null)""",
        (json.dumps({"constraint": "one_id_each", "table": "person", "payload": {"firstName": "Secret"}}), clinic),
    )
    refused, unlinked = syncline("reviews", "list", "--json")
    assert (refused["kind"], refused["can_retry"], unlinked["can_retry"]) == ("constraint", True, False)
    said = syncline("reviews", "list", "--kind", "constraint") + syncline("reviews", "show", str(refused["id"]))
    assert "one_id_each" in said
    assert "x7" in said
    assert "Secret" not in said + json.dumps(syncline("reviews", "list", "--json"))
    assert "Secret" in syncline("reviews", "show", str(refused["id"]), "--payload")
    assert "2 review items wait for a person" in syncline("status")
    assert "not_configured" in syncline("reviews", "retry", str(refused["id"]), code=1)
    assert f"syncline push {clinic}" in syncline("reviews", "retry", str(unlinked["id"]), code=1)
    assert "is closed" in syncline("reviews", "close", str(refused["id"]), "--note", "a test record")
    assert "review_closed" in syncline("reviews", "retry", str(refused["id"]), code=1)
    assert "review_unknown" in syncline("reviews", "show", "999999", code=1)
    assert [row["kind"] for row in syncline("reviews", "list", "--json")] == ["unlinked"]
    closed = syncline("reviews", "list", "--closed", "--json")[0]
    assert (closed["note"], closed["closed_by"].partition(":")[0]) == ("a test record", "cli")
    assert "review_unknown" in syncline("--org", "org_other", "reviews", "close", str(unlinked["id"]), code=1)
    actions = admin.execute("select action from sync.audit where action like 'review%' order by id").fetchall()
    assert [action for (action,) in actions] == ["review.read", "review.close"]


@pytest.mark.covers("F113", "R26")
def test_who_a_record_is_is_decided_once(syncline, clinic, admin):
    admin.execute(
        """insert into sync.review (org_id, connection, kind, entity_type, subject, detail, value)
           select 'org_main', 'clinic', 'match', 'person', s, %s, 'avro' from unnest(array['x8', 'x9']) s""",
        (json.dumps({"external_type": "individual", "reason": "contradiction"}),),
    )
    link, new = (str(row["id"]) for row in syncline("reviews", "list", "--json"))
    assert f"syncline reviews decide {link} --link" in syncline("reviews", "show", link)
    for wrong in ((), ("--new", "--link", clinic)):
        assert "either --link" in " ".join(syncline("reviews", "decide", link, *wrong, code=2).split())
    assert "id_unknown" in syncline("reviews", "decide", link, "--link", "person_x", code=1)
    assert f"is {clinic}" in syncline("reviews", "decide", link, "--link", clinic, "--note", "asked her")
    assert syncline("reviews", "decide", new, "--new", "--json")["decision"] == "new"
    for act in ("decide", "retry", "close"):
        said = syncline("reviews", act, link, *(("--new",) if act == "decide" else ()), code=1)
        assert "review_decided" in said
    assert syncline("reviews", "list") == "There is nothing to look at.\n"
    assert "review" not in syncline("status")
    told = admin.execute("select actor, detail from sync.audit where action = 'review.decide' order by id").fetchall()
    assert [detail["decision"] for _, detail in told] == ["link", "new"]
    assert all(actor.startswith("cli") for actor, _ in told)


@pytest.mark.covers("R26")
def test_what_a_person_is_asked_has_an_owner_and_a_deadline(syncline, clinic, admin):
    admin.execute(
        """insert into sync.review (org_id, connection, kind, entity_type, subject, created_at) values
           ('org_main', 'clinic', 'constraint', 'person', 'new', now()),
           ('org_main', 'clinic', 'constraint', 'person', 'older', now() - interval '6 d'),
           ('org_main', 'clinic', 'constraint', 'person', 'late', now() - interval '8 d')"""
    )
    items = syncline("reviews", "list", "--json")
    assert [(row["subject"], row["overdue"]) for row in items] == [("late", True), ("older", False), ("new", False)]
    [behind] = syncline("reviews", "list", "--after", str(items[1]["id"]), "--json")
    assert behind["subject"] == "new"
    assert "3 review items wait for a person, the oldest for 8.0 d, 1 overdue" in syncline("status")
    assert syncline("status", "--json")["conflicts"]["overdue"] == 0
    assert "overdue 1.0 d" in syncline("reviews", "list")

    assert "review_within_s changed" in syncline("connections", "set", "clinic", "--review-within", "1h")
    assert syncline("connections", "show", "clinic", "--json")["review_within_s"] == 3600
    assert [row["overdue"] for row in syncline("reviews", "list", "--json")] == [True, True, False]
    assert "overdue 2.0 h" in syncline("conflicts", "list")
    assert "limit_invalid" in syncline("connections", "set", "clinic", "--review-within", "0s", code=1)

    late = str(items[0]["id"])
    assert "belongs to ann" in syncline("reviews", "assign", late, "--to", "ann")
    assert "belongs to ann" in syncline("conflicts", "assign", clinic, "--to", "ann")
    assert "ann" in syncline("reviews", "list")
    assert [row["owner"] for row in syncline("conflicts", "list", "--json")] == ["ann"]
    assert "belongs to nobody" in syncline("reviews", "assign", late, "--nobody")
    assert syncline("reviews", "show", late, "--json")["owner"] is None
    assert "either --to" in " ".join(syncline("reviews", "assign", late, code=2).split())
    assert "owner_invalid" in syncline("reviews", "assign", late, "--to", " ", code=1)
    assert "conflict_unknown" in syncline("conflicts", "assign", "person_x", "--to", "ann", code=1)
    actions = admin.execute("select action from sync.audit where action like '%.assign' order by id").fetchall()
    assert [action for (action,) in actions] == ["review.assign", "conflict.assign", "review.assign"]
