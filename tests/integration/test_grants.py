"""Who may do what: the capture role reads no personal column, nobody forges a tombstone."""

import psycopg
import pytest

from schemas import model
from streams.store import publication

pytestmark = pytest.mark.integration
DENIED = psycopg.errors.InsufficientPrivilege


@pytest.mark.parametrize("entity", list(model.load()), ids=lambda entity: entity.name)
def test_capture_reads_captured_columns_and_no_other(connect, entity):
    capture = connect("capture")
    capture.execute(f"select {', '.join(entity.captured_columns)} from canon.{entity.name}")
    for field in entity.fields:
        if field.name not in entity.captured_columns:
            with pytest.raises(DENIED):
                capture.execute(f"select {field.name} from canon.{entity.name}")
    with pytest.raises(DENIED):
        capture.execute(f"select custom from canon.{entity.name}")


@pytest.mark.parametrize(
    "statement",
    [
        "select link_metadata from sync.external_link",
        "select * from sync.credential",
        "select * from sync.push_intent",
        "insert into canon.campus default values",
        "delete from sync.tombstone",
        "select * from jobs.procrastinate_jobs",
    ],
)
def test_capture_may_do_nothing_else(connect, statement):
    with pytest.raises(DENIED):
        connect("capture").execute(statement)


def test_capture_writes_its_heartbeat_as_the_connector_does(connect, database):
    from streams import capture

    configured = database.model_copy(update={"registry_url": "http://registry"})
    query = capture.connector_config(configured, model.load())["heartbeat.action.query"]
    connect("capture").execute(query)
    connect("capture").execute(query)


@pytest.mark.parametrize("role", ["app", "applier"])
@pytest.mark.parametrize(
    "statement",
    [
        "select sync.leave_tombstone()",
        "create temp table a (id text); create trigger t after delete on a execute function sync.leave_tombstone()",
        "insert into sync.tombstone values ('o', 'person', 'p', 1, 'local', 'o/p')",
        "update sync.tombstone set version = 0",
        "delete from sync.tombstone",
        "alter table canon.person disable trigger zzz_stamp",
        "drop trigger zzz_tombstone on canon.person",
        "truncate canon.person",
        "drop publication syncline",
        "delete from sync.migration",
        "set session_replication_role = replica",
    ],
)
def test_writers_cannot_forge_or_pass_by(connect, role, statement):
    with pytest.raises(DENIED):
        connect(role).execute(statement)


@pytest.mark.parametrize("role", ["app", "applier"])
def test_writers_write_everything_else(connect, role):
    conn = connect(role)
    conn.execute("insert into canon.campus (name) values ('North')")
    conn.execute("update canon.campus set name = 'South'")
    conn.execute("insert into sync.audit (org_id, actor, action, subject) values ('o', 'a', 'b', 'c')")
    conn.execute("delete from canon.campus")


def test_bulk_writes_canonical_tables_only(connect):
    app = connect("app")
    app.execute("set role syncline_bulk")
    app.execute("insert into canon.campus (name) values ('North')")
    with pytest.raises(DENIED):
        app.execute("select * from sync.credential")


def test_tables_that_come_later_are_granted_too(connect):
    connect("owner").execute("create table sync.later (id bigint generated always as identity, x text)")
    connect("app").execute("insert into sync.later (x) values ('a')")


def test_the_publication_holds_the_allow_list_and_nothing_else(connect):
    found = publication.published(connect("app").execute(publication.FOUND, (publication.NAME,)).fetchall())
    assert found == {table: frozenset(columns) for table, columns in publication.wanted(model.load()).items()}
    personal = {field.name for entity in model.load() for field in entity.fields if field.privacy}
    canonical = {column for (schema, _), columns in found.items() if schema == "canon" for column in columns}
    assert not personal & canonical
