"""What the planner believes of tables that nobody has analysed yet.

Of a new table Postgres assumes that any equality leaves one row in two hundred. So in the first minutes of an import,
until autovacuum has looked, it would read all rows of an organisation instead of those of some keys, with each batch
more. Columns that tell rows apart say so from the start; what is true replaces it with the first analysis.
"""

from __future__ import annotations

from typing import Any

import psycopg

ALIKE = ("org_id", "connection", "external_type", "entity_type", "part", "origin")
"""Columns in which most rows of a table agree; all others are taken for keys."""
TABLES = ("applied_event", "conflict_log", "external_link", "link_alias", "link_state")
"""Tables of the schema `sync` that grow with the records."""

_EXPECT = """
select pg_restore_attribute_stats(
  'schemaname', n.nspname::text, 'relname', c.relname::text, 'attname', a.attname::text, 'inherited', false,
  'null_frac', case when a.attname = 'deleted_at' then 1 else 0 end::real, 'avg_width', 16,
  'n_distinct', case when a.attname = any(%(alike)s) then 1 when a.attname = 'deleted_at' then 0 else -1 end::real)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind = 'r' and c.reltuples = -1
  and (n.nspname = 'canon' or n.nspname = 'sync' and c.relname = any(%(tables)s))
  and not exists (
    select from pg_stats s where (s.schemaname, s.tablename, s.attname) = (n.nspname, c.relname, a.attname))
"""


def expect(owner: psycopg.Connection[Any]) -> None:
    """Tell the planner, as far as it knows nothing yet; the tables' owner may."""
    owner.execute(_EXPECT, {"alike": list(ALIKE), "tables": list(TABLES)})
