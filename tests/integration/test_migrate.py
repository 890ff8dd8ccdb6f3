"""A database is brought to the release and the model, once or often, by one or many at once."""

import json
import shutil
import threading
import time

import psycopg
import pytest

from schemas import model
from schemas.problems import Problem
from streams.store import canon, migrate, migration_files, publication

pytestmark = pytest.mark.integration


def execute(settings, role, statement):
    with psycopg.connect(settings.dsn(role), autocommit=True) as conn:
        return conn.execute(statement)


def rows(settings, query, role="owner"):
    with psycopg.connect(settings.dsn(role), autocommit=True) as conn:
        return conn.execute(query).fetchall()


def own_model(home, name, *fields, **attributes):
    folder = home / "model"
    folder.mkdir(exist_ok=True)
    record = {"type": "record", "name": name, "fields": list(fields), **attributes}
    (folder / f"{name}.avsc").write_text(json.dumps(record))


def text(name):
    return {"name": name, "type": ["null", "string"], "default": None}


def test_the_second_run_has_nothing_to_do_and_is_quick(fresh_database):
    first = migrate.migrate(fresh_database)
    assert first.changed
    assert first.publication
    assert first.slot
    started = time.monotonic()
    assert not migrate.migrate(fresh_database).changed
    assert time.monotonic() - started < 0.5


def test_migrators_at_the_same_time_do_not_collide(fresh_database):
    reports, failures = [], []

    def run():
        try:
            reports.append(migrate.migrate(fresh_database))
        except Exception as error:  # noqa: BLE001 - handed to the assertion below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(report.changed for report in reports) == 1


def test_an_entity_type_of_the_users_own_gets_its_table_topic_columns_and_grants(fresh_database):
    migrate.migrate(fresh_database)
    own_model(fresh_database.home, "visit", text("title"), {**text("person_id"), "references": {"entity": "person"}})
    report = migrate.migrate(fresh_database)
    assert report.publication
    assert report.statements
    (row,) = rows(fresh_database, "insert into canon.visit (title) values ('x') returning id, version", "app")
    assert row[0].startswith("visit_")
    found = publication.published(
        rows(fresh_database, "select schemaname, tablename, attnames::text[] from pg_publication_tables")
    )
    assert "person_id" in found["canon", "visit"]
    assert "title" not in found["canon", "visit"]
    assert not migrate.migrate(fresh_database).changed


def test_a_new_field_becomes_a_column(fresh_database):
    own_model(fresh_database.home, "pet", text("name"))
    migrate.migrate(fresh_database)
    execute(fresh_database, "app", "insert into canon.pet (name) values ('Rex')")
    own_model(fresh_database.home, "pet", text("name"), {"name": "age", "type": ["null", "int"], "default": None})
    assert migrate.migrate(fresh_database).statements == ('alter table "canon"."pet" add column "age" integer',)
    assert rows(fresh_database, "select name, age, version from canon.pet") == [("Rex", None, 1)]


def test_a_contradicting_column_is_refused_by_name_and_nothing_is_done(fresh_database):
    own_model(fresh_database.home, "pet", text("name"), text("age"))
    migrate.migrate(fresh_database)
    own_model(
        fresh_database.home,
        "pet",
        text("name"),
        {"name": "age", "type": ["null", "int"], "default": None},
        text("more"),
    )
    with pytest.raises(Problem) as caught:
        migrate.migrate(fresh_database)
    assert caught.value.code == "canon_contradiction"
    assert "canon.pet.age has the type text, the model says integer" in caught.value.cause
    assert (
        rows(fresh_database, "select 1 from pg_attribute where attrelid = 'canon.pet'::regclass and attname = 'more'")
        == []
    )


def test_what_was_taken_away_is_put_back(fresh_database):
    migrate.migrate(fresh_database)
    for damage in (
        "drop trigger zzz_stamp on canon.person",
        "alter table canon.email disable trigger zzz_tombstone",
        "alter table canon.campus replica identity default",
        "drop index canon.person_changed_xid",
    ):
        execute(fresh_database, "owner", damage)
    assert len(migrate.migrate(fresh_database).statements) == 5
    with psycopg.connect(fresh_database.dsn("owner")) as owner:
        found = canon.read(owner)
    assert all(set(found[entity.name].triggers.values()) == {"A"} for entity in model.load())
    assert found["campus"].identity == "campus_identity"


def test_a_table_left_out_of_or_put_into_the_publication_is_mended(fresh_database):
    migrate.migrate(fresh_database)
    execute(fresh_database, "owner", "alter publication syncline drop table canon.email")
    execute(fresh_database, "owner", "alter publication syncline add table sync.audit")
    assert migrate.migrate(fresh_database).publication
    tables = {
        row[0] for row in rows(fresh_database, "select tablename from pg_publication_tables where pubname = 'syncline'")
    }
    assert "email" in tables
    assert "audit" not in tables


def test_a_slot_that_exists_is_never_replaced(fresh_database):
    migrate.migrate(fresh_database)
    query = "select restart_lsn, failover, plugin from pg_replication_slots where database = current_database()"
    before = rows(fresh_database, query)
    execute(fresh_database, "app", "insert into canon.person default values")
    migrate.migrate(fresh_database)
    assert rows(fresh_database, query) == before
    assert before[0][1:] == (True, "pgoutput")


def test_a_slot_of_another_database_is_not_taken_for_ours(fresh_database):
    with psycopg.connect(fresh_database.dsn("admin"), dbname="postgres", autocommit=True) as elsewhere:
        elsewhere.execute("select pg_create_logical_replication_slot('syncline', 'pgoutput')")
        with pytest.raises(Problem, match="of the database `postgres`"):
            migrate.migrate(fresh_database)
        elsewhere.execute("select pg_drop_replication_slot('syncline')")


def test_a_failing_migration_leaves_nothing(fresh_database):
    migrate.migrate(fresh_database)
    broken = migration_files.parse("9999_pre_broken.sql", "create table sync.left_over (); select 1/0;")
    with psycopg.connect(fresh_database.dsn("owner"), autocommit=True) as owner:
        with pytest.raises(Problem, match="division by zero"):
            migration_files.apply(owner, broken)
        assert owner.execute("select to_regclass('sync.left_over')").fetchone() == (None,)
        assert broken.name not in migration_files.history(owner)


def test_the_job_queue_has_its_tables(database):
    tables = {name for (name,) in rows(database, "select tablename from pg_tables where schemaname = 'jobs'")}
    assert "procrastinate_jobs" in tables
    with psycopg.connect(database.dsn("app"), options="-csearch_path=jobs") as conn:
        assert conn.execute("select count(*) from procrastinate_jobs").fetchone() == (0,)


def test_missing_roles_without_an_administrator_are_a_problem_that_says_what_to_run(postgres, tmp_path):
    settings = postgres.database("norole", tmp_path).model_copy(update={"postgres_admin_dsn": None})
    with psycopg.connect(settings.dsn("owner"), autocommit=True) as owner:
        from streams.store import roles

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(roles, "ATTRIBUTES", {"syncline_nobody": "nologin"})
            with pytest.raises(Problem, match="syncline_nobody") as caught:
                roles.ensure(owner, settings)
    assert "create role syncline_nobody nologin" in caught.value.next_step
    postgres.drop("norole")


# the files ---------------------------------------------------------------------------------------------------------


def test_names_say_when_a_file_runs():
    assert all(migration.phase in ("pre", "post") for migration in migration_files.shipped())
    with pytest.raises(Problem, match="migration_name"):
        migration_files.parse("0001_later_x.sql", "")


def test_pending_keeps_order_and_leaves_post_for_later():
    known = [
        migration_files.parse(f"000{n}_{phase}_x.sql", str(n)) for n, phase in enumerate(("pre", "post", "pre"), 1)
    ]
    assert [m.name[:4] for m in migration_files.pending(known, {})] == ["0001", "0002", "0003"]
    assert [m.name[:4] for m in migration_files.pending(known, {}, post=False)] == ["0001", "0003"]
    ran = {known[0].name: known[0].checksum}
    assert [m.name[:4] for m in migration_files.pending(known, ran)] == ["0002", "0003"]
    with pytest.raises(Problem, match="migration_changed"):
        migration_files.pending(known, {known[0].name: "other"})


def test_a_home_without_a_model_folder_has_the_shipped_model(fresh_database):
    shutil.rmtree(fresh_database.home / "model", ignore_errors=True)
    assert migrate.model_of(fresh_database).order == model.load().order
