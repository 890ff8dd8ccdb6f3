-- The ordered log of event-like entity types, see migration 0010.

-- next_events --
-- The oldest event of each entity after the given one that the connection did not bring itself. `passed`: what it has
-- passed over before that, its own events.
select w.entity_id, e.id, e.op, e.version, e.row, e.origin, e.modified_at,
       exists (select from sync.push_event l
               where l.entity_id = e.entity_id and l.org_id = e.org_id and l.id > e.id and l.origin <> w.connection) as more,
       coalesce((select max(s.id) from sync.push_event s
                 where s.entity_id = e.entity_id and s.org_id = e.org_id and s.id > w.after and s.id < e.id), w.after) as passed
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(entity_id text, after bigint) offset 0) w
cross join lateral (
  select * from sync.push_event e
  where e.entity_id = w.entity_id and e.org_id = w.org_id and e.id > w.after and e.origin <> w.connection
  order by e.id limit 1) e

-- forget --
select sync.forget_push_events(%(before)s, %(most)s)
