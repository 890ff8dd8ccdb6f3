-- Records of types that are not live yet. Batches come as one JSON parameter.

-- stage --
-- The newest event of each record stays: by their time, and of one instant the one that reached us last.
insert into sync.staged_record as s (org_id, connection, external_type, external_id, entity_type, event_id, value, position,
  occurred_at, received_at, staged_at)
select distinct on (r.external_id) %(org)s, %(connection)s, %(type)s, r.external_id, %(entity_type)s, decode(r.event_id, 'hex'),
  decode(r.value, 'base64'), r.position, r.occurred_at, r.received_at, %(now)s
from json_to_recordset(%(rows)s::json) as r(external_id text, event_id text, value text, position text, occurred_at timestamptz,
  received_at timestamptz)
order by r.external_id, r.occurred_at desc, r.received_at desc, r.event_id desc
on conflict (external_id, external_type, connection, org_id) do update set
  event_id = excluded.event_id, value = excluded.value, position = excluded.position, occurred_at = excluded.occurred_at,
  received_at = excluded.received_at, staged_at = excluded.staged_at
where (s.occurred_at, s.received_at, s.event_id) < (excluded.occurred_at, excluded.received_at, excluded.event_id)

-- open --
-- Types that are live now and have records that were staged before.
select c.org_id, c.name, g.key
from sync.connection c cross join lateral jsonb_each_text(c.gates) g
where g.value = 'live' and c.state <> 'disconnected'
  and exists (select from sync.staged_record s where s.connection = c.name and s.org_id = c.org_id and s.entity_type = g.key)
order by 1, 2, 3

-- next --
select s.event_id, s.value, s.position
from sync.staged_record s
where s.connection = %(connection)s and s.org_id = %(org)s and s.entity_type = %(entity_type)s
order by s.received_at, s.external_id limit %(limit)s
for update skip locked

-- unstage --
delete from sync.staged_record s using (select %(org)s::text as org_id, %(connection)s::text as connection) w
where s.connection = w.connection and s.org_id = w.org_id and s.entity_type = %(entity_type)s and s.event_id = any(%(ids)s)
