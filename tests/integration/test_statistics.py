"""Rows are read by their keys from the first one on, before anybody has analysed a table."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from streams.inbound import matching
from streams.resources import BY_KEY
from streams.settings import Settings
from streams.store import queries, statistics
from streams.store.canon import match_key

pytestmark = pytest.mark.integration
ROWS = 4000


@pytest.fixture(scope="module")
def filled(database: Settings) -> Settings:
    with psycopg.connect(database.dsn("admin"), autocommit=True) as admin:
        values = {"rows": ROWS}
        for table in ("canon.person", "canon.email", "sync.external_link"):
            admin.execute(sql.SQL("alter table {} set (autovacuum_enabled = false)").format(sql.SQL(table)))
        admin.execute(
            """insert into canon.person (org_id, id, first_name)
               select 'org', 'person_' || n, 'First' from generate_series(1, %(rows)s) n""",
            values,
        )
        admin.execute(
            """insert into canon.email (org_id, id, person_id, address)
               select 'org', 'email_' || n, 'person_' || n, n || '@example.org' from generate_series(1, %(rows)s) n""",
            values,
        )
        admin.execute("insert into sync.connection (org_id, name, system, url) values ('org', 'c', 'sim', 'https://x')")
        admin.execute(
            """insert into sync.external_link
                 (org_id, connection, external_type, external_id, entity_type, entity_id, sync_key, made_by)
               select 'org', 'c', 'people', 'p' || n, 'person', 'person_' || n, 'org/person_' || n, 'push'
               from generate_series(1, %(rows)s) n""",
            values,
        )
    return database


def read(settings: Settings, statement: Any, values: Any) -> int:
    """How many rows a statement looks at, those included that it then throws away."""
    with psycopg.connect(settings.dsn("applier"), options=BY_KEY, autocommit=True) as conn, conn.transaction():
        text = statement if isinstance(statement, sql.Composed) else sql.SQL(statement)
        (found,) = conn.execute(sql.SQL("explain (analyze, format json) ") + text, values).fetchone() or ((),)
    return _read(found[0]["Plan"])


def _read(plan: dict[str, Any]) -> int:
    own = sum(plan.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Join Filter", "Index Recheck"))
    seen = plan["Actual Rows"] if plan["Node Type"].startswith(("Index", "Seq", "Bitmap Heap")) else 0
    return int((own + seen) * plan["Actual Loops"]) + sum(map(_read, plan.get("Plans", ())))


def test_links_are_found_by_their_ids(filled: Settings) -> None:
    ids = [f"p{n}" for n in range(1, 201)]
    values = {"org": "org", "connection": "c", "type": "people", "ids": ids}
    assert read(filled, queries("inbound")["links"], values) <= 2 * len(ids)


def test_entities_are_found_by_the_keys_of_their_parts(filled: Settings) -> None:
    keys = [f"{n}@example.org" for n in range(1, 201)]
    statement = sql.SQL(matching.NAMED).format(
        table=sql.Identifier("canon", "email"),
        root=sql.Identifier("person_id"),
        key=match_key("email", sql.Identifier("t", "address")),
    )
    assert read(filled, statement, ("org", keys)) <= 2 * len(keys)


def test_parts_are_found_by_their_roots(filled: Settings) -> None:
    ids = [f"person_{n}" for n in range(1, 201)]
    statement = "select id from canon.email where org_id = %s and person_id = any(%s) and deleted_at is null"
    assert read(filled, statement, ("org", ids)) <= 2 * len(ids)


def test_what_was_analysed_stands(database: Settings) -> None:
    with psycopg.connect(database.dsn("owner"), autocommit=True) as owner:
        said = "select n_distinct from pg_stats where tablename = 'campus' and attname = %s"
        assert owner.execute(said, ("org_id",)).fetchone() == (1.0,)
        assert owner.execute(said, ("id",)).fetchone() == (-1.0,)
        owner.execute(
            "insert into canon.campus (org_id, name) select 'org_' || n % 7, 'N' from generate_series(1, 100) n"
        )
        owner.execute("analyze canon.campus")
        statistics.expect(owner)
        assert owner.execute(said, ("org_id",)).fetchone() == (7.0,)
