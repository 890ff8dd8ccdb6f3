-- Who waits for whose link. Batches come as one JSON parameter.

-- parents --
-- The entities that are waited for, as they stand at this connection.
select w.entity_id, p.state, p.error_code
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(entity_id text, external_type text) offset 0) w
left join sync.push_intent p on p.org_id = w.org_id and p.connection = w.connection and p.external_type = w.external_type
  and p.entity_id = w.entity_id

-- wait --
insert into sync.push_wait (waits_for, entity_id, connection, external_type, org_id, field, required, reason)
select w.waits_for, w.entity_id, %(connection)s, w.external_type, %(org)s, w.field, w.required, w.reason
from json_to_recordset(%(rows)s::json) as w(waits_for text, entity_id text, external_type text, field text, required boolean, reason text)
order by w.waits_for, w.entity_id
on conflict (waits_for, entity_id, connection, external_type, org_id) do update set
  field = excluded.field, required = excluded.required, reason = excluded.reason

-- release --
-- These entities are linked now: what waited for them is wanted once more.
with gone as (
  delete from sync.push_wait w where w.org_id = %(org)s and w.connection = %(connection)s and w.waits_for = any(%(ids)s)
  returning org_id, connection, external_type, entity_id, required)
update sync.push_intent p set wanted_seq = p.wanted_seq + 1, not_before = %(now)s,
  reason = case when g.required then 'dependency_linked' else 'second_pass' end,
  state = case when p.state in ('WAITING', 'DONE') then 'PENDING' else p.state end
from (select org_id, connection, external_type, entity_id, bool_or(required) as required from gone group by 1, 2, 3, 4 offset 0) g
where p.org_id = g.org_id and p.connection = g.connection and p.external_type = g.external_type and p.entity_id = g.entity_id

-- linked_since --
-- Links that were made where nobody told: by the applier, a match or a person, or at the same moment as the wait.
select distinct w.org_id, w.connection, w.waits_for
from sync.push_wait w
join sync.external_link l on l.entity_id = w.waits_for and l.connection = w.connection and l.org_id = w.org_id and l.deleted_at is null
limit 1000

-- look_again --
-- Whoever waited for the link of these entities finds out that it will not come.
update sync.push_intent p set state = 'PENDING', not_before = %(now)s
from (select org_id, connection, external_type, entity_id from sync.push_wait
      where waits_for = any(%(ids)s) and connection = %(connection)s and org_id = %(org)s offset 0) w
where p.entity_id = w.entity_id and p.connection = w.connection and p.external_type = w.external_type
  and p.org_id = w.org_id and p.state = 'WAITING'
