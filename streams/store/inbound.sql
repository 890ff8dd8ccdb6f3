-- Statements of the inbound flow. Batches come as one JSON parameter; rows are locked in order of their keys.

-- seen --
-- Which of these events have been applied already, by whatever way they came. One that a person redrives because it was
-- refused is to be looked at again; one that is only staged (`unstage`) was not applied.
select event_id from sync.applied_event
where event_id = any(%(ids)s) and not (decision = 'parked' and event_id = any(%(redriven)s))
  and not (decision = 'staged' and %(unstage)s)

-- links --
select l.id, l.external_id, l.entity_id, l.link_metadata
from sync.external_link l
where l.org_id = %(org)s and l.connection = %(connection)s and l.external_type = %(type)s
  and l.external_id = any(%(ids)s) and l.part = '' and l.deleted_at is null
order by l.id for update

-- states --
select s.link_id, s.external_version, s.external_updated_at, s.heard_at, s.pushed_at, s.base, s.over, s.spans
from sync.link_state s where s.org_id = %(org)s and s.link_id = any(%(ids)s)
order by s.link_id for update

-- unlinked --
-- Records whose link was taken away: when, which entity it stood for, and whether by a delete of ours, or by one of theirs
-- and then whether the entity has got no other record there.
select distinct on (l.external_id) l.external_id, l.deleted_at, l.id, l.entity_id, l.link_metadata ? 'deleted_by_us',
  l.link_metadata ? 'deleted_there', l.link_metadata ? 'deleted_there' and not exists (
    select from sync.external_link o where o.sync_key = l.sync_key and o.org_id = l.org_id and o.connection = l.connection
      and o.part = '' and o.deleted_at is null)
from sync.external_link l
where l.org_id = %(org)s and l.connection = %(connection)s and l.external_type = %(type)s
  and l.external_id = any(%(ids)s) and l.deleted_at is not null
order by l.external_id, l.deleted_at desc

-- tombstones --
-- Rows that were deleted for good, and when.
select t.entity_type, t.id, max(t.deleted_at) from sync.tombstone t
where t.org_id = %(org)s and t.id = any(%(ids)s)
group by t.entity_type, t.id

-- intents --
-- Pushes that are wanted, on their way or waiting for a person.
select p.entity_id, p.sent from sync.push_intent p
where p.org_id = %(org)s and p.connection = %(connection)s and p.external_type = %(type)s
  and p.entity_id = any(%(ids)s) and p.state not in ('DONE', 'DEAD')

-- questions --
select c.entity_id, c.field from sync.conflict c
where c.org_id = %(org)s and c.connection = %(connection)s and c.entity_id = any(%(ids)s) and c.resolved_at is null

-- pushed_lately --
-- What confirmed pushes replaced, see rules.alternation.
select d.entity_id, d.delta -> 'changes' from sync.delivery d
where d.entity_id = any(%(ids)s) and d.org_id = %(org)s and d.connection = %(connection)s and d.external_type = %(type)s
  and d.recorded_at >= %(since)s and d.outcome = 'delivered' and jsonb_typeof(d.delta -> 'changes') = 'array'

-- received_last --
-- Of events of one instant: when the last of them reached us.
select a.entity_id, max(a.received_at)
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(entity_id text, at timestamptz) offset 0) w
join sync.applied_event a on a.org_id = w.org_id and a.entity_id = w.entity_id and a.connection = w.connection
  and a.occurred_at = w.at and a.decision not in ('stale', 'parked')
group by a.entity_id

-- our_ids --
-- Their ids of other entities, as their records refer to them, to ours.
select w.kind, w.id, l.entity_id
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(kind text, external_type text, id text) offset 0) w
left join sync.link_alias a on a.external_id = w.id and a.external_type = w.external_type and a.connection = w.connection
  and a.org_id = w.org_id
join sync.external_link l on l.org_id = w.org_id and l.connection = w.connection and l.external_type = w.external_type
  and l.external_id = coalesce(a.into_id, w.id) and l.part = '' and l.deleted_at is null and l.entity_id is not null

-- their_ids --
-- The same the other way.
select w.kind, w.id, l.external_id
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(kind text, external_type text, id text) offset 0) w
join sync.external_link l on l.org_id = w.org_id and l.connection = w.connection and l.external_type = w.external_type
  and l.entity_type = w.kind and l.entity_id = w.id and l.deleted_at is null

-- save_links --
insert into sync.external_link (org_id, id, connection, external_type, external_id, entity_type, entity_id, sync_key, made_by)
select %(org)s, r.id, %(connection)s, %(type)s, r.external_id, %(entity_type)s, r.entity_id, %(org)s || '/' || r.entity_id, r.made_by
from json_to_recordset(%(rows)s::json) as r(id text, external_id text, entity_id text, made_by text)
order by r.entity_id

-- part_links --
-- The links of items in their records' lists, of these roots.
select l.sync_key, l.entity_type, l.entity_id, l.id, l.external_type, l.external_id, l.part
from sync.external_link l
where l.sync_key = any(%(keys)s) and l.org_id = %(org)s and l.connection = %(connection)s
  and l.external_type = any(%(types)s) and l.part <> '' and l.deleted_at is null

-- save_part_links --
insert into sync.external_link (org_id, id, connection, external_type, external_id, part, entity_type, entity_id, sync_key, made_by)
select %(org)s, r.id, %(connection)s, r.external_type, r.external_id, r.part, r.entity_type, r.entity_id, r.sync_key, 'inbound'
from json_to_recordset(%(rows)s::json) as r(id text, external_type text, external_id text, part text, entity_type text,
  entity_id text, sync_key text)
order by r.entity_id

-- save_gone --
-- Records that they deleted before we knew them, each as a link that is closed already: the tombstone of their id.
insert into sync.external_link (org_id, connection, external_type, external_id, entity_type, sync_key, made_by, deleted_at)
select %(org)s, %(connection)s, %(type)s, r.external_id, %(entity_type)s,
  %(org)s || '/' || %(connection)s || '/' || %(type)s || '/' || r.external_id, 'inbound', r.at
from json_to_recordset(%(rows)s::json) as r(external_id text, at timestamptz)
order by r.external_id

-- gone_again --
-- They deleted it once more, or say so: nothing before that brings it back, and what comes after is still the entity it was.
update sync.external_link l set deleted_at = greatest(l.deleted_at, r.at)
from (select *, %(org)s::text as org_id from json_to_recordset(%(rows)s::json) as j(link text, at timestamptz) offset 0) r
where l.org_id = r.org_id and l.id = r.link

-- settle_creates --
-- They have the record, whatever became of the answer to our create: what is still to be said goes out as an update.
update sync.push_intent set state = 'PENDING', body = null, sent = null, resolve = null, resolve_token = null, attempt = 0,
  not_before = %(now)s, first_failed_at = null, error_code = null, error_cause = null
where org_id = %(org)s and connection = %(connection)s and external_type = %(type)s and entity_id = any(%(ids)s)
  and op = 'create' and body is not null and state in ('PENDING', 'RETRY', 'UNKNOWN', 'PARKED')

-- close_links --
-- They deleted what we keep: their record is no longer the one, and what we send next makes another. Closed at their
-- time of it, so that what happened there before is no news, whatever their clock says.
update sync.external_link l set deleted_at = r.at, link_metadata = l.link_metadata || '{"deleted_there": true}'
from (select *, %(org)s::text as org_id from json_to_recordset(%(rows)s::json) as j(id text, at timestamptz) offset 0) r
where l.org_id = r.org_id and l.id = r.id and l.deleted_at is null

-- next_generation --
-- A create of a new generation has a key of its own: under the old one they would answer with the record that is gone.
update sync.push_intent set generation = generation + 1
where org_id = %(org)s and connection = %(connection)s and external_type = %(type)s and entity_id = any(%(ids)s)

-- save_unresolved --
-- References to records that are not linked yet: `inbound.references` resolves them.
update sync.external_link l set link_metadata = case
    when r.unresolved = '{}'::jsonb then l.link_metadata - 'unresolved'
    else l.link_metadata || jsonb_build_object('unresolved', r.unresolved) end
from (select *, %(org)s::text as org_id from json_to_recordset(%(rows)s::json) as j(id text, unresolved jsonb) offset 0) r
where l.org_id = r.org_id and l.id = r.id

-- save_states --
-- `pushed_at` goes when an event comes after a push whose time they told: from here on their clock says it all.
insert into sync.link_state as s (org_id, link_id, external_version, external_updated_at, heard_at, pushed_at, last_processed_at, base, over, spans)
select %(org)s, r.link_id, r.external_version, r.external_updated_at, r.heard_at, r.pushed_at, %(now)s, r.base, r.over, r.spans
from json_to_recordset(%(rows)s::json) as r(link_id text, external_version text, external_updated_at timestamptz, heard_at timestamptz,
  pushed_at timestamptz, base jsonb, over jsonb, spans jsonb)
order by r.link_id
on conflict (org_id, link_id) do update set
  rev = s.rev + 1,
  external_version = excluded.external_version,
  external_updated_at = excluded.external_updated_at,
  heard_at = excluded.heard_at,
  pushed_at = excluded.pushed_at,
  last_processed_at = excluded.last_processed_at,
  base = excluded.base,
  over = excluded.over,
  spans = excluded.spans

-- touch_states --
-- F132: in every case it is known when a record was last looked at.
update sync.link_state set last_processed_at = %(now)s where org_id = %(org)s and link_id = any(%(ids)s)

-- lost_lately --
-- Values that lost by their time, with that time.
select entity_id, field, case winner when 'ours' then theirs else ours end, case winner when 'ours' then theirs_at else ours_at end
from sync.conflict_log
where entity_id = any(%(ids)s) and org_id = %(org)s and decided_at > %(since)s and rule = any(%(rules)s) and winner <> 'neither'

-- linked_elsewhere --
select distinct l.entity_id from sync.external_link l
where l.sync_key = any(select %(org)s || '/' || i from unnest(%(ids)s::text[]) i) and l.org_id = %(org)s
  and l.connection <> %(connection)s and l.part = '' and l.deleted_at is null

-- move_times --
-- A value was there earlier than we believed.
update sync.conflict_log c set
  ours_at = case when c.ours = r.value and c.ours_at = r.by then r.at else c.ours_at end,
  theirs_at = case when c.theirs = r.value and c.theirs_at = r.by then r.at else c.theirs_at end
from (select *, %(org)s::text as org_id from json_to_recordset(%(rows)s::json) as j(entity_id text, field text, value jsonb,
     by timestamptz, at timestamptz) offset 0) r
where c.entity_id = r.entity_id and c.org_id = r.org_id and c.field = r.field
  and (c.ours = r.value and c.ours_at = r.by or c.theirs = r.value and c.theirs_at = r.by)

-- save_losers --
insert into sync.conflict_log (org_id, connection, entity_type, entity_id, field, base, ours, theirs, winner, rule,
  ours_at, theirs_at, event_id, decided_at)
select %(org)s, %(connection)s, %(entity_type)s, r.entity_id, r.field, r.base, r.ours, r.theirs, r.winner, r.rule,
  r.ours_at, r.theirs_at, decode(r.event_id, 'hex'), %(now)s
from json_to_recordset(%(rows)s::json) as r(entity_id text, field text, base jsonb, ours jsonb, theirs jsonb, winner text,
  rule text, ours_at timestamptz, theirs_at timestamptz, event_id text)

-- save_questions --
-- A question that is asked anew shows what they hold now; what it showed before is a value that lost, and is in the log.
with r as materialized (
  select *, %(org)s::text as org_id, %(connection)s::text as connection from json_to_recordset(%(rows)s::json) as j(entity_id text, field text,
    rule text, base jsonb, ours jsonb, theirs jsonb, event_id text) offset 0),
shown as (
  insert into sync.conflict_log (org_id, connection, entity_type, entity_id, field, base, ours, theirs, winner, rule, event_id, decided_at)
  select c.org_id, c.connection, c.entity_type, c.entity_id, c.field, c.base, c.ours, c.theirs, 'ours', 'asked_anew', c.event_id, %(now)s
  from r join sync.conflict c on c.org_id = r.org_id and c.connection = r.connection and c.entity_id = r.entity_id and c.field = r.field
  where c.resolved_at is null and c.theirs is distinct from r.theirs and c.field <> 'deleted_at')
insert into sync.conflict as c (org_id, connection, entity_type, entity_id, field, rule, base, ours, theirs, event_id, opened_at)
select org_id, connection, %(entity_type)s, r.entity_id, r.field, r.rule, r.base, r.ours, r.theirs, decode(r.event_id, 'hex'), %(now)s
from r order by r.entity_id, r.field
on conflict (org_id, connection, entity_id, field) where resolved_at is null do update set
  rule = excluded.rule, ours = excluded.ours, theirs = excluded.theirs, event_id = excluded.event_id

-- close_questions --
-- Both sides hold one value by now; where it is not theirs that was asked about, theirs has lost.
with closed as (
  update sync.conflict c set resolved_at = %(now)s, resolution = 'equal'
  from (select *, %(org)s::text as org_id, %(connection)s::text as connection
        from json_to_recordset(%(rows)s::json) as j(entity_id text, field text, value jsonb) offset 0) r
  where c.org_id = r.org_id and c.connection = r.connection and c.entity_id = r.entity_id and c.field = r.field and c.resolved_at is null
  returning c.*, r.value)
insert into sync.conflict_log (org_id, connection, entity_type, entity_id, field, base, ours, theirs, winner, rule, event_id, decided_at)
select org_id, connection, entity_type, entity_id, field, base, value, theirs, 'ours', 'equal', event_id, %(now)s
from closed where theirs is distinct from value and field <> 'deleted_at'

-- enter --
-- The ledger. An event that is missing from the answer was applied by somebody else at the same moment.
insert into sync.applied_event (event_id, org_id, connection, external_type, external_id, entity_id, source, decision, reason,
  occurred_at, received_at, applied_at)
select decode(r.event_id, 'hex'), r.org_id, r.connection, r.external_type, r.external_id, r.entity_id, r.source, r.decision, r.reason,
  r.occurred_at, r.received_at, %(now)s
from json_to_recordset(%(rows)s::json) as r(event_id text, org_id text, connection text, external_type text, external_id text,
  entity_id text, source text, decision text, reason text, occurred_at timestamptz, received_at timestamptz)
order by r.event_id
on conflict (event_id) do update set decision = excluded.decision, reason = excluded.reason, entity_id = excluded.entity_id,
  source = excluded.source, received_at = excluded.received_at, applied_at = excluded.applied_at
where applied_event.decision = 'parked' and excluded.source = 'redrive' or applied_event.decision = 'staged'

-- recovered --
-- What a poll brought although webhooks are on: they missed it.
update sync.checkpoint c set recovered = c.recovered + r.count
from (
  select w.org_id, w.connection, w.external_type, count(*) as count
  from json_to_recordset(%(rows)s::json) as w(org_id text, connection text, external_type text, occurred_at timestamptz)
  where exists (select from sync.webhook_endpoint e where e.org_id = w.org_id and e.connection = w.connection
                and e.created_at < w.occurred_at)
  group by w.org_id, w.connection, w.external_type) r
where c.org_id = r.org_id and c.connection = r.connection and c.external_type = r.external_type

-- dead_letters --
insert into sync.dead_letter (org_id, connection, source, record_key, headers, value, position, code, cause, created_at)
select r.org_id, r.connection, r.source, r.record_key, r.headers, decode(r.value, 'hex'), r.position, r.code, r.cause, %(now)s
from json_to_recordset(%(rows)s::json) as r(org_id text, connection text, source text, record_key text, headers jsonb, value text,
  position text, code text, cause text)
on conflict (source, position) where position is not null do nothing

-- reviews --
-- The newest event of each record; an older one that comes later says nothing new.
insert into sync.review as v (org_id, connection, kind, entity_type, subject, detail, value, created_at)
select distinct on (r.org_id, r.connection, r.kind, r.subject) r.org_id, r.connection, r.kind, r.entity_type, r.subject, r.detail, decode(r.value, 'hex'), %(now)s
from json_to_recordset(%(rows)s::json) as r(org_id text, connection text, kind text, entity_type text, subject text, detail jsonb, value text)
order by r.org_id, r.connection, r.kind, r.subject, (r.detail ->> 'occurred_at')::timestamptz desc
on conflict (org_id, connection, kind, subject) where closed_at is null do update set detail = excluded.detail, value = excluded.value
where (v.detail ->> 'occurred_at')::timestamptz <= (excluded.detail ->> 'occurred_at')::timestamptz

-- close_reviews --
-- What a rule of the user's tables refused, or nobody could match, has been applied since, in a later state.
update sync.review set closed_at = %(now)s, closed_by = decided_by
where org_id = %(org)s and connection = %(connection)s and kind in ('constraint', 'match') and subject = any(%(ids)s) and closed_at is null
  and detail ->> 'external_type' = %(type)s

-- waiting_references --
-- Links whose record referred to others that we did not know then, and do now. Locked, the next time is soon enough.
select l.org_id, l.connection, l.external_type, l.id as link, l.entity_type, l.entity_id, r.key as field, t.entity_type as target_type,
  t.entity_id as target
from sync.external_link l
cross join lateral jsonb_each(l.link_metadata -> 'unresolved') r
left join sync.link_alias a on a.external_id = r.value ->> 1 and a.connection = l.connection and a.org_id = l.org_id
join sync.external_link t on t.org_id = l.org_id and t.connection = l.connection and t.entity_type = r.value ->> 0
  and t.external_id = any(array[r.value ->> 1, a.into_id]) and (t.external_id = r.value ->> 1 or t.external_type = a.external_type)
  and t.part = '' and t.deleted_at is null and t.entity_id is not null
where l.link_metadata ? 'unresolved' and l.deleted_at is null and l.entity_id is not null
order by l.org_id, l.id limit %(limit)s
for update of l skip locked

-- settle_reference --
update sync.external_link set link_metadata = case
    when link_metadata -> 'unresolved' = jsonb_build_object(%(field)s::text, link_metadata -> 'unresolved' -> %(field)s)
    then link_metadata - 'unresolved'
    else link_metadata #- array['unresolved', %(field)s] end
where org_id = %(org)s and id = %(link)s

-- hold_reference --
-- They hold the reference, as far as we know: it is what their record said.
update sync.link_state set rev = rev + 1, base = jsonb_set(base, %(path)s::text[], to_jsonb(%(target)s::text))
where org_id = %(org)s and link_id = %(link)s

-- checkpoint --
insert into sync.checkpoint as c (org_id, connection, external_type) values (%(org)s, %(connection)s, %(type)s)
on conflict (org_id, connection, external_type) do update set failures = c.failures
returning fetched_through, failures, read_in_full_at

-- fetched --
-- Everything up to here is durable in inbound.events.
update sync.checkpoint set
  fetched_through = greatest(fetched_through, %(through)s), polled_at = %(now)s, failures = 0, last_error = null,
  read_in_full_at = case when %(full)s then %(now)s else read_in_full_at end
where org_id = %(org)s and connection = %(connection)s and external_type = %(type)s

-- mark --
insert into sync.poll_mark (org_id, connection, external_type, through, positions)
values (%(org)s, %(connection)s, %(type)s, %(through)s, %(positions)s)

-- poll_failed --
update sync.checkpoint set failures = failures + 1, last_error = %(error)s, polled_at = %(now)s
where org_id = %(org)s and connection = %(connection)s and external_type = %(type)s

-- settle_marks --
-- Move applied_through over the polls whose events have all been applied, in their order, and never past an event that
-- waits for a person. What is fetched and not marked brought nothing new.
with marks as (
  select m.org_id, m.connection, m.external_type, m.id, m.through,
         bool_and(coalesce(p.next_offset, 0) >= (e.value)::bigint) as applied
  from sync.poll_mark m
  cross join lateral jsonb_each_text(m.positions) e
  left join sync.progress p on p.consumer = %(consumer)s and p.topic = %(topic)s and p.partition = e.key::int
  where (%(org)s::text is null or m.org_id = %(org)s) and (%(connection)s::text is null or m.connection = %(connection)s)
  group by m.org_id, m.connection, m.external_type, m.id, m.through),
prefixes as (
  select *, bool_and(applied) over (partition by org_id, connection, external_type order by id) as settled from marks),
gone as (
  delete from sync.poll_mark where id in (select id from prefixes where settled)),
reached as (
  select c.org_id, c.connection, c.external_type,
         case when bool_or(not p.settled) then max(p.through) filter (where p.settled) else c.fetched_through end as through
  from sync.checkpoint c
  left join prefixes p on (p.org_id, p.connection, p.external_type) = (c.org_id, c.connection, c.external_type)
  where (%(org)s::text is null or c.org_id = %(org)s) and (%(connection)s::text is null or c.connection = %(connection)s)
    and c.fetched_through is not null and (p.id is not null or c.applied_through is distinct from c.fetched_through)
  group by c.org_id, c.connection, c.external_type, c.fetched_through),
failed as (
  select org_id, connection, external_type, min(at) as at from (
    select org_id, connection, headers ->> 'external_type' as external_type, (headers ->> 'occurred_at')::timestamptz as at
    from sync.dead_letter where source = %(topic)s and state = 'open' and headers ? 'occurred_at'
    union all
    select org_id, connection, detail ->> 'external_type', (detail ->> 'occurred_at')::timestamptz
    from sync.review where kind in ('constraint', 'match') and closed_at is null
    union all
    select org_id, connection, external_type, polled_from from sync.fetch_intent
    where wanted_seq > done_seq and polled_from is not null) f
  group by org_id, connection, external_type)
update sync.checkpoint c set applied_through = greatest(c.applied_through, least(r.through, f.at - interval '1 microsecond'))
from reached r left join failed f using (org_id, connection, external_type)
where (c.org_id, c.connection, c.external_type) = (r.org_id, r.connection, r.external_type) and r.through is not null
  and c.applied_through is distinct from greatest(c.applied_through, least(r.through, f.at - interval '1 microsecond'))
