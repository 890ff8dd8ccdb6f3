-- Conflicts that wait for a person, and the values that lost. Batches come as one JSON parameter.

-- list --
-- One line per record and connection, what is due first. `after`: the last one of the page before.
select c.id, c.connection, c.entity_type, c.entity_id, c.fields, c.opened_at, c.owner, d.due_at, d.due_at < %(now)s as overdue from (
  select org_id, min(id) as id, connection, entity_type, entity_id, array_agg(field order by field) as fields,
    min(opened_at) as opened_at, max(owner) as owner
  from sync.conflict
  where org_id = %(org)s and resolved_at is null and (%(connection)s::text is null or connection = %(connection)s)
    and (%(entity_type)s::text is null or entity_type = %(entity_type)s)
  group by org_id, connection, entity_type, entity_id) c
left join sync.connection n on n.org_id = c.org_id and n.name = c.connection
cross join lateral (select sync.due_at(c.opened_at, n.review_within_s) as due_at) d
where (%(before)s::timestamptz is null or c.opened_at <= %(before)s)
  and (%(after)s = 0 or (d.due_at, c.id) > (
    select sync.due_at(p.opened_at, q.review_within_s), p.id
    from sync.conflict p left join sync.connection q on q.org_id = p.org_id and q.name = p.connection
    where p.id = %(after)s and p.org_id = %(org)s))
order by d.due_at, c.id limit %(limit)s

-- assign --
update sync.conflict set owner = %(owner)s
where entity_id = %(entity)s and org_id = %(org)s and resolved_at is null
  and (%(connection)s::text is null or connection = %(connection)s)
returning connection

-- counts --
-- Of parts by their type.
select connection, entity_type, split_part(field, '/', 1) as field, count(*) as count, min(opened_at) as oldest
from sync.conflict where org_id = %(org)s and resolved_at is null group by 1, 2, 3 order by 1, 2, 3

-- lock --
select id from sync.conflict
where entity_id = %(entity)s and connection = %(connection)s and org_id = %(org)s and resolved_at is null
order by id for update

-- open --
-- What is asked about one record, and when they wrote what they hold.
select c.id, c.connection, c.entity_type, c.field, c.rule, c.base, c.ours, c.theirs, encode(c.event_id, 'hex') as event_id,
       c.opened_at, a.occurred_at as theirs_at, a.source
from sync.conflict c left join sync.applied_event a on a.event_id = c.event_id
where c.entity_id = %(entity)s and c.org_id = %(org)s and c.resolved_at is null
  and (%(connection)s::text is null or c.connection = %(connection)s)
order by c.connection, c.id

-- closed --
-- How the last conflict about a record ended.
select connection, resolution, resolved_by, resolved_at from sync.conflict
where entity_id = %(entity)s and org_id = %(org)s and resolved_at is not null
  and (%(connection)s::text is null or connection = %(connection)s)
order by resolved_at desc limit 1

-- close --
update sync.conflict c set resolved_at = %(now)s, resolution = r.resolution, resolved_by = %(actor)s, note = %(note)s
from json_to_recordset(%(rows)s::json) as r(id bigint, resolution text)
where c.id = r.id and c.resolved_at is null

-- save_losers --
insert into sync.conflict_log (org_id, connection, entity_type, entity_id, field, base, ours, theirs, winner, rule, ours_at, theirs_at,
  event_id, decided_at, decided_by)
select %(org)s, %(connection)s, %(entity_type)s, %(entity)s, r.field, r.base, r.ours, r.theirs, r.winner, 'person', r.ours_at,
  r.theirs_at, decode(r.event_id, 'hex'), %(now)s, %(actor)s
from json_to_recordset(%(rows)s::json) as r(field text, base jsonb, ours jsonb, theirs jsonb, winner text, ours_at timestamptz,
  theirs_at timestamptz, event_id text)

-- unlink --
-- Their record is gone: what we keep will be a new one over there.
update sync.external_link set deleted_at = %(now)s
where entity_id = %(entity)s and connection = %(connection)s and entity_type = %(entity_type)s and org_id = %(org)s and deleted_at is null

-- next_generation --
-- A create of a new generation has a key of its own: under the old one they would answer with the record that is gone.
update sync.push_intent set generation = generation + 1
where entity_id = %(entity)s and connection = %(connection)s and org_id = %(org)s

-- lock_link --
select external_type from sync.external_link
where entity_id = %(entity)s and connection = %(connection)s and entity_type = %(entity_type)s and org_id = %(org)s and deleted_at is null
order by id for update

-- log --
-- Values that lost, the newest first.
select id, connection, entity_type, entity_id, field, base, ours, theirs, winner, rule, ours_at, theirs_at,
       encode(event_id, 'hex') as event_id, decided_at, decided_by, restored_at, restored_by
from sync.conflict_log
where org_id = %(org)s and (%(entity)s::text is null or entity_id = %(entity)s)
  and (%(connection)s::text is null or connection = %(connection)s)
  and (%(since)s::timestamptz is null or decided_at >= %(since)s) and (%(before)s::bigint is null or id < %(before)s)
order by id desc limit %(limit)s

-- lost --
-- `of_delete`: what lost is not this value but their delete of the whole record.
select l.id, l.connection, l.entity_type, l.entity_id, l.field, l.base, l.ours, l.theirs, l.winner, l.ours_at, l.theirs_at,
       encode(l.event_id, 'hex') as event_id, l.restored_at, l.restored_by, coalesce(a.reason, '') = 'edited_here_since' as of_delete
from sync.conflict_log l left join sync.applied_event a on a.event_id = l.event_id
where l.id = %(id)s and l.org_id = %(org)s

-- lock_lost --
select id from sync.conflict_log where id = %(id)s and org_id = %(org)s for update

-- restored --
update sync.conflict_log set restored_at = %(now)s, restored_by = %(actor)s where id = %(id)s and restored_at is null
