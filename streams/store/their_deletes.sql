-- The guard against mass deletes of theirs. Batches come as one JSON parameter.

-- linked --
-- Records of theirs that we have: the bound is a part of them.
select count(*) from sync.external_link
where org_id = %(org)s and connection = %(connection)s and external_type = %(type)s and entity_id is not null and deleted_at is null

-- hold --
insert into sync.held_event (event_id, org_id, connection, external_type, external_id, hold_id, value, position, occurred_at, received_at)
select decode(r.event_id, 'hex'), %(org)s, %(connection)s, %(type)s, r.external_id, %(hold)s, decode(r.value, 'base64'), r.position,
  r.occurred_at, r.received_at
from json_to_recordset(%(rows)s::json) as r(event_id text, external_id text, value text, position text, occurred_at timestamptz,
  received_at timestamptz)
order by r.event_id
on conflict (event_id) do nothing

-- overtaken --
-- They said more of these records after their delete.
update sync.held_event h set hold_id = null
from (select *, %(org)s::text as org_id, %(connection)s::text as connection, %(type)s::text as external_type
      from json_to_recordset(%(rows)s::json) as j(external_id text, occurred_at timestamptz) offset 0) w
where h.external_id = w.external_id and h.external_type = w.external_type and h.connection = w.connection and h.org_id = w.org_id
  and h.occurred_at < w.occurred_at and h.hold_id is not null

-- any --
select exists (select from sync.held_event where hold_id is null)
    or exists (select from sync.held_event h join sync.mass_hold m on m.id = h.hold_id where m.state <> 'open')

-- decided --
select h.event_id, h.value, h.position, coalesce(m.state, 'overtaken')
from sync.held_event h left join sync.mass_hold m on m.id = h.hold_id
where h.hold_id is null or m.state <> 'open'
order by h.received_at, h.event_id limit %(limit)s
for update of h skip locked

-- released --
delete from sync.held_event where event_id = any(%(ids)s)
