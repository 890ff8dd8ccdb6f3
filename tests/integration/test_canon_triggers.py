"""What the triggers keep on canonical rows, for every kind of writer."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

pytestmark = pytest.mark.integration
PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def app(connect):
    return connect("app")


@pytest.fixture
def applier(connect):
    return connect("applier")


def one(conn, query, *arguments):
    return conn.cursor(row_factory=dict_row).execute(query, arguments).fetchone()


def person(conn, **fields):
    names = ", ".join(fields) or "first_name"
    places = ", ".join(["%s"] * len(fields)) or "null"
    return one(conn, f"insert into canon.person ({names}) values ({places}) returning *", *fields.values())


def update(conn, entity_id, **fields):
    sets = ", ".join(f"{name} = %s" for name in fields)
    return one(conn, f"update canon.person set {sets} where id = %s returning *", *fields.values(), entity_id)


def email(conn, parent, address="ann@example.org"):
    query = "insert into canon.email (person_id, address) values (%s, %s) returning *"
    return one(conn, query, parent["id"], address)


def tombstones(conn, entity_id):
    query = "select * from sync.tombstone where id = %s order by version"
    return conn.cursor(row_factory=dict_row).execute(query, [entity_id]).fetchall()


# plain SQL ---------------------------------------------------------------------------------------------------------


def test_plain_sql_needs_no_bookkeeping(app):
    row = person(app, first_name="Ann")
    assert re.fullmatch(r"person_[0-7][0-9a-hjkmnp-tv-z]{25}", row["id"])
    assert row["org_id"] == "org_main"
    assert row["version"] == 1
    assert row["origin"] == "local"
    assert row["sync_key"] == f"org_main/{row['id']}"
    assert row["status"] == "active"
    assert row["custom"] == {}
    assert row["changed_xid"]


def test_what_a_writer_says_about_the_bookkeeping_is_not_believed(app):
    claims = {
        "version": 99,
        "origin": "pco",
        "origin_event": "x",
        "sync_key": "org_other/person_x",
        "modified_at": PAST,
    }
    row = person(app, **claims)
    assert (row["version"], row["origin"], row["origin_event"]) == (1, "local", None)
    assert row["sync_key"] == f"org_main/{row['id']}"
    assert row["modified_at"] > PAST
    row = update(app, row["id"], first_name="Ann", **(claims | {"origin_event": "y"}))
    assert (row["version"], row["origin"], row["origin_event"]) == (2, "local", None)
    assert row["modified_at"] > PAST


def test_every_update_is_a_new_version_in_its_own_transaction(app):
    first = person(app, first_name="Ann")
    second = update(app, first["id"], first_name="Anna")
    assert second["version"] == 2
    assert second["changed_xid"] != first["changed_xid"]
    assert second["modified_at"] > first["modified_at"]
    assert second["updated_at"] > first["updated_at"]
    assert second["created_at"] == first["created_at"]


def test_an_update_that_changes_nothing_emits_but_is_no_edit(app):
    first = person(app, first_name="Ann", custom='{"a": 1}')
    touched = update(app, first["id"], first_name="Ann")
    assert touched["version"] == 2
    assert touched["changed_xid"] != first["changed_xid"]
    assert touched["modified_at"] == first["modified_at"]


def test_a_soft_delete_is_an_edit(app):
    first = person(app, first_name="Ann")
    assert update(app, first["id"], deleted_at=PAST)["modified_at"] > first["modified_at"]


@pytest.mark.parametrize("column", ["id", "org_id"])
def test_identity_never_changes(app, column):
    row = person(app)
    with pytest.raises(psycopg.errors.RestrictViolation, match="never change") as caught:
        update(app, row["id"], **{column: row[column] + "x"})
    assert caught.value.diag.message_hint


def test_ids_have_the_prefix_of_their_type(app):
    with pytest.raises(psycopg.errors.CheckViolation):
        person(app, id="campus_01h455vb4pex5vsknk084sn02q")


@pytest.mark.parametrize("org_id", ["", "a/b"])
def test_an_organisation_is_named_and_does_not_break_the_key(app, org_id):
    with pytest.raises(psycopg.errors.CheckViolation):
        person(app, org_id=org_id)


# origin ------------------------------------------------------------------------------------------------------------


def test_the_appliers_tag_is_kept_and_a_local_edit_resets_it(app, applier):
    row = person(applier, first_name="Ann", origin="pco", origin_event="e1", modified_at=PAST)
    assert (row["origin"], row["origin_event"], row["modified_at"]) == ("pco", "e1", PAST)
    row = update(applier, row["id"], first_name="Anna", origin="pco", origin_event="e2", modified_at=PAST)
    assert (row["origin"], row["origin_event"], row["modified_at"]) == ("pco", "e2", PAST)
    row = update(app, row["id"], last_name="Lee")
    assert (row["origin"], row["origin_event"]) == ("local", None)
    assert row["modified_at"] > PAST


@pytest.mark.parametrize(
    ("first", "second", "origin"),
    [
        ({"origin": "pco", "origin_event": "e1"}, {"origin": "pco", "origin_event": "e2"}, "pco"),
        ({"origin": "pco", "origin_event": "e1"}, {"origin": "pco", "origin_event": "e1"}, "local"),
        ({"origin": "pco", "origin_event": "e1"}, {"first_name": "x"}, "local"),
        ({"origin": "pco", "origin_event": "e1"}, {"origin": "oscar"}, "local"),
        ({"origin": "pco", "origin_event": "e1"}, {"origin": "pco", "origin_event": None}, "local"),
        ({"origin": "pco"}, {"origin": "local", "origin_event": "e2"}, "local"),
    ],
)
def test_a_tag_counts_only_in_the_statement_that_sets_the_event(applier, first, second, origin):
    row = update(applier, person(applier, **first)["id"], **second)
    assert row["origin"] == origin


def test_the_appliers_upsert_keeps_its_tag_in_both_branches(applier):
    upsert = """
        insert into canon.person (id, first_name, origin, origin_event, modified_at)
        values (%(id)s, %(name)s, 'pco', %(event)s, %(at)s)
        on conflict (org_id, id) do update set first_name = excluded.first_name, origin = excluded.origin,
          origin_event = excluded.origin_event, modified_at = excluded.modified_at
        returning *"""
    entity_id = one(applier, "select canon.typeid('person') as id")["id"]
    cursor = applier.cursor(row_factory=dict_row)
    for version, event in enumerate(("e1", "e2"), 1):
        row = cursor.execute(upsert, {"id": entity_id, "name": event, "event": event, "at": PAST}).fetchone()
        assert (row["version"], row["origin"], row["origin_event"]) == (version, "pco", event)
        assert row["modified_at"] == PAST


def test_the_applier_may_set_the_time_of_a_merged_edit_without_a_tag(applier):
    row = person(applier, first_name="Ann", origin="pco", origin_event="e1", modified_at=PAST)
    later = datetime(2021, 1, 1, tzinfo=UTC)
    row = update(applier, row["id"], first_name="Anna", modified_at=later)
    assert (row["origin"], row["modified_at"]) == ("local", later)


def test_bulk_changes_are_marked(app):
    app.execute("set role syncline_bulk")
    row = person(app, first_name="Ann", origin="pco", origin_event="e1")
    assert (row["origin"], row["origin_event"]) == ("bulk", None)
    app.execute("reset role")
    assert update(app, row["id"], first_name="Anna")["origin"] == "local"
    app.execute("set role syncline_bulk")
    assert update(app, row["id"], first_name="Anne")["origin"] == "bulk"
    app.execute("delete from canon.person where id = %s", [row["id"]])
    assert tombstones(app, row["id"])[-1]["origin"] == "bulk"


@pytest.mark.parametrize("role", ["syncline_applier", "syncline_owner", "syncline_capture"])
def test_nobody_becomes_another_writer(app, role):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(f"set role {role}")


# deletes -----------------------------------------------------------------------------------------------------------


def test_a_delete_leaves_a_tombstone_and_a_return_goes_on_from_it(app):
    row = person(app, first_name="Ann")
    for version in (1, 3):
        app.execute("delete from canon.person where id = %s", [row["id"]])
        newest = tombstones(app, row["id"])[-1]
        assert (newest["version"], newest["origin"], newest["entity_type"]) == (version + 1, "local", "person")
        assert newest["sync_key"] == row["sync_key"]
        assert person(app, id=row["id"])["version"] == version + 2


def test_parts_go_with_their_root_and_leave_tombstones_under_its_key(app):
    root = person(app)
    part = email(app, root)
    app.execute("delete from canon.person where id = %s", [root["id"]])
    (stone,) = tombstones(app, part["id"])
    assert (stone["entity_type"], stone["version"], stone["sync_key"]) == ("email", 2, root["sync_key"])
    assert stone["origin"] == "local"


def test_the_appliers_delete_carries_the_connection_to_cascaded_parts_too(applier):
    root = person(applier, origin="pco", origin_event="e1")
    part = email(applier, root)
    with applier.transaction():
        applier.execute("set local syncline.origin = 'pco'")
        applier.execute("delete from canon.person where id = %s", [root["id"]])
    assert [tombstones(applier, row["id"])[0]["origin"] for row in (root, part)] == ["pco", "pco"]
    other = person(applier, origin="pco", origin_event="e2")
    applier.execute("delete from canon.person where id = %s", [other["id"]])
    assert tombstones(applier, other["id"])[0]["origin"] == "local"


def test_only_the_applier_may_name_the_origin_of_a_delete(app):
    row = person(app)
    app.execute("set syncline.origin = 'pco'")
    app.execute("delete from canon.person where id = %s", [row["id"]])
    assert tombstones(app, row["id"])[0]["origin"] == "local"


@pytest.mark.parametrize("entity_type", ["person", "email", "campus"])
def test_truncate_is_refused(connect, entity_type):
    with pytest.raises(psycopg.errors.RestrictViolation, match="TRUNCATE of canon") as caught:
        connect("owner").execute(f"truncate canon.{entity_type} cascade")
    assert "Use DELETE" in caught.value.diag.message_hint


def test_a_replica_does_not_pass_the_triggers_by(connect):
    admin = connect("admin")
    admin.execute("set session_replication_role = replica")
    row = person(admin, origin="pco")
    assert row["origin"] == "local"
    admin.execute("delete from canon.person where id = %s", [row["id"]])
    assert tombstones(admin, row["id"])


# parts -------------------------------------------------------------------------------------------------------------


def test_a_part_has_its_roots_key_and_moves_with_it(app):
    ann, bea = person(app), person(app)
    part = email(app, ann)
    assert part["sync_key"] == ann["sync_key"]
    moved = one(app, "update canon.email set person_id = %s where id = %s returning *", bea["id"], part["id"])
    assert (moved["sync_key"], moved["version"]) == (bea["sync_key"], 2)
    assert moved["modified_at"] > part["modified_at"]


def test_a_part_may_come_before_its_root_within_a_transaction(app):
    ids = one(app, "select canon.typeid('person') as id")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        email(app, ids)
    with app.transaction():
        app.execute("set constraints all deferred")
        email(app, ids)
        person(app, id=ids["id"])


def test_plain_references_may_point_at_what_is_not_there_yet(app):
    assert person(app, household_id="household_unknown")["household_id"] == "household_unknown"


# the log of event-like types ----------------------------------------------------------------------------------------


def referral(conn, **fields):
    names, places = ", ".join(fields), ", ".join(["%s"] * len(fields))
    return one(conn, f"insert into canon.referral ({names}) values ({places}) returning *", *fields.values())


def edit(conn, entity_id, assignment, *values):
    return one(conn, f"update canon.referral set {assignment} where id = %s returning *", *values, entity_id)


def events(conn, entity_id):
    query = "select * from sync.push_event where entity_id = %s order by id"
    return conn.cursor(row_factory=dict_row).execute(query, [entity_id]).fetchall()


@pytest.mark.covers("F139")
def test_every_version_is_logged_in_full_and_in_order(app):
    row = referral(app, service="food", referred_on="2026-01-31")
    for assignment in ("decision = 'accepted'", "custom = '{\"pco\": 1}'", "deleted_at = now()"):
        edit(app, row["id"], assignment)
    app.execute("delete from canon.referral where id = %s", [row["id"]])
    referral(app, id=row["id"], service="food")

    logged = events(app, row["id"])
    assert [event["op"] for event in logged] == ["create", "update", "update", "update", "delete", "create"]
    assert [event["version"] for event in logged] == [1, 2, 3, 4, 5, 6]
    assert [event["row"]["decision"] for event in logged] == [None, *["accepted"] * 4, None]
    assert logged[0]["row"]["referred_on"] == "2026-01-31"
    assert logged[4]["row"] == logged[3]["row"]
    assert {(e["org_id"], e["entity_type"], e["sync_key"]) for e in logged} == {
        ("org_main", "referral", row["sync_key"])
    }
    assert set(logged[0]["row"]) == set(row)


def test_a_touch_and_other_types_are_not_logged(app):
    row = referral(app, service="food")
    assert edit(app, row["id"], "service = service, version = 9, modified_at = now()")["version"] == 2
    assert len(events(app, row["id"])) == 1
    assert events(app, person(app)["id"]) == []


def test_the_log_says_who_brought_a_version(app, applier):
    row = referral(applier, service="food", origin="pco", origin_event="e1", modified_at=PAST)
    edit(app, row["id"], "decision = 'accepted'")
    app.execute("set role syncline_bulk")
    edit(app, row["id"], "decision = 'rejected'")
    app.execute("reset role")
    with applier.transaction():
        applier.execute("set local syncline.origin = 'pco'")
        applier.execute("delete from canon.referral where id = %s", [row["id"]])
    logged = events(app, row["id"])
    assert [event["origin"] for event in logged] == ["pco", "local", "bulk", "pco"]
    assert logged[0]["modified_at"] == PAST


def test_the_same_row_looks_the_same_whoever_writes_it(app):
    app.execute("set timezone = 'Asia/Phnom_Penh'")
    logged = events(app, referral(app, service="food", deleted_at=PAST)["id"])
    assert logged[0]["row"]["deleted_at"] == "2020-01-01T00:00:00+00:00"


def test_writers_of_one_row_are_logged_in_the_order_in_which_they_had_it(app, connect):
    row = referral(app, service="0")
    writers, edits = [connect("app") for _ in range(4)], 25

    def write(conn):
        for n in range(edits):
            edit(conn, row["id"], "service = %s", f"{conn.info.backend_pid} {n}")

    with ThreadPoolExecutor(len(writers)) as threads:
        list(threads.map(write, writers))
    logged = events(app, row["id"])
    assert [event["version"] for event in logged] == list(range(1, 4 * edits + 2))
    now = one(app, "select service from canon.referral where id = %s", row["id"])
    assert logged[-1]["row"]["service"] == now["service"]


def test_a_trigger_of_the_users_that_edits_once_more_does_not_turn_the_order_round(app, connect):
    owner = connect("owner")
    owner.execute(
        """create function pg_temp.once_more() returns trigger language plpgsql as $$ begin
             update canon.referral set notes = 'seen' where id = new.id and notes is null; return null; end $$"""
    )
    owner.execute(
        "create trigger a_users_own after insert on canon.referral for each row execute function pg_temp.once_more()"
    )
    row = referral(owner, service="food")
    owner.execute("drop trigger a_users_own on canon.referral")
    assert [(event["op"], event["row"]["notes"]) for event in events(app, row["id"])] == [
        ("create", None),
        ("update", "seen"),
    ]


@pytest.mark.parametrize("role", ["app", "applier"])
@pytest.mark.parametrize(
    "statement",
    [
        "select sync.record_event()",
        "insert into sync.push_event (entity_id) values ('referral_x')",
        "update sync.push_event set row = '{}'",
        "delete from sync.push_event",
    ],
)
def test_nobody_forges_the_log(connect, role, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connect(role).execute(statement)


# speed and properties ----------------------------------------------------------------------------------------------


def test_ten_thousand_rows_in_one_statement_take_less_than_a_second(app):
    # processor time of the server's own process: the clock would count the other tests as well
    backend = psutil.Process(app.info.backend_pid)
    before = sum(backend.cpu_times()[:2])
    app.execute("insert into canon.person (first_name) select 'n' || n from generate_series(1, 10000) n")
    assert sum(backend.cpu_times()[:2]) - before < 1.0


def test_ids_are_typeids(app):
    # the vectors of the TypeID specification
    for uuid, digits in (
        ("00000000-0000-0000-0000-000000000000", "00000000000000000000000000"),
        ("00000000-0000-0000-0000-000000000001", "00000000000000000000000001"),
        ("00000000-0000-0000-0000-00000000000a", "0000000000000000000000000a"),
        ("00000000-0000-0000-0000-000000000020", "00000000000000000000000010"),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", "7zzzzzzzzzzzzzzzzzzzzzzzzz"),
        ("0110c853-1d09-52d8-d73e-1194e95b5f19", "0123456789abcdefghjkmnpqrs"),
        ("01890a5d-ac96-774b-bcce-b302099a8057", "01h455vb4pex5vsknk084sn02q"),
    ):
        assert one(app, "select canon.base32(%s::uuid) as digits", uuid)["digits"] == digits


DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


@given(st.uuids())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_base32_is_the_number_in_digits(app, uuid):
    digits = one(app, "select canon.base32(%s) as digits", uuid)["digits"]
    number = 0
    for digit in digits:
        number = number * 32 + DIGITS.index(digit)
    assert (len(digits), number) == (26, uuid.int)


def test_ids_sort_by_the_time_they_were_made(app):
    rows = app.execute("select canon.typeid('person') from generate_series(1, 1000)").fetchall()
    assert rows == sorted(rows)
    assert len(set(rows)) == 1000


STEPS = st.lists(st.sampled_from(["insert", "update", "touch", "applied", "delete", "bulk"]), min_size=1, max_size=12)


@given(STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_versions_of_one_id_strictly_rise_whatever_happens(app, applier, steps):
    entity_id = one(app, "select canon.typeid('person') as id")["id"]
    seen = []
    for n, step in enumerate(steps):
        there = one(app, "select version from canon.person where id = %s", entity_id) is not None
        if step == "delete":
            app.execute("delete from canon.person where id = %s", [entity_id])
            seen += [tombstones(app, entity_id)[-1]["version"]] if there else []
        elif not there:
            seen.append(person(app, id=entity_id, first_name=str(n))["version"])
        elif step == "applied":
            seen.append(update(applier, entity_id, origin="pco", origin_event=f"e{n}", version=1)["version"])
        elif step == "bulk":
            app.execute("set role syncline_bulk")
            seen.append(update(app, entity_id, last_name=str(n))["version"])
            app.execute("reset role")
        else:
            same = one(app, "select first_name from canon.person where id = %s", entity_id)["first_name"]
            seen.append(update(app, entity_id, first_name=same if step == "touch" else str(n))["version"])
    assert seen == list(range(1, len(seen) + 1))


@pytest.mark.covers("F058", "R11")
def test_each_field_of_a_root_has_the_time_of_its_last_edit(connect):
    app = connect("app")
    person = app.execute(
        "insert into canon.person (org_id, first_name, last_name) values ('org_times', 'Ann', 'Lee') returning id"
    ).fetchone()[0]

    def times():
        return app.execute("select modified_at, field_times from canon.person where id = %s", (person,)).fetchone()

    made, fields = times()
    assert fields == {}
    app.execute("update canon.person set first_name = 'Anna' where id = %s", (person,))
    first, fields = times()
    assert {name: datetime.fromisoformat(at) for name, at in fields.items()} == {"": made, "first_name": first}
    app.execute("update canon.person set last_name = 'Low', field_times = '{}' where id = %s", (person,))
    last, fields = times()
    assert {name: datetime.fromisoformat(at) for name, at in fields.items()} == {
        "": made,
        "first_name": first,
        "last_name": last,
    }
    app.execute("update canon.person set last_name = last_name where id = %s", (person,))
    assert times() == (last, fields)
