-- Everything that is known of one entity or one record of theirs. Newest first, few of each.

-- tombstone --
select entity_type, id, version, origin, deleted_at as modified_at, deleted_at from sync.tombstone
where org_id = %(org)s and id = %(id)s order by version desc limit 1

-- links --
select l.connection, l.external_type, l.external_id, l.deleted_at, s.last_processed_at
from sync.external_link l left join sync.link_state s on s.org_id = l.org_id and s.link_id = l.id
where l.org_id = %(org)s and l.entity_id = any(%(ids)s)
order by l.deleted_at is not null, array_position(%(ids)s::text[], l.entity_id), l.created_at desc

-- links_by_external_id --
select distinct connection, external_type, entity_type, entity_id from sync.external_link
where org_id = %(org)s and external_id = %(id)s and deleted_at is null order by 1, 2

-- events_by_external_id --
select connection, external_type from sync.applied_event where org_id = %(org)s and external_id = %(id)s
union
select connection, external_type from sync.waiting_event where org_id = %(org)s and external_id = %(id)s
union
select connection, external_type from sync.fetch_intent where org_id = %(org)s and external_id = %(id)s
order by 1, 2

-- reads --
-- Records of theirs that are about to be read in full, as the last that is known of them.
select connection, 'reading' as decision, coalesce(error_code, reason) as reason, '' as source, wanted_at as occurred_at,
       wanted_at as received_at, wanted_at as applied_at
from sync.fetch_intent where external_id = any(%(ids)s) and org_id = %(org)s and wanted_seq > done_seq order by wanted_at desc

-- intents --
select p.connection, p.entity_id, p.state, p.reason, greatest(p.wanted_seq - p.done_seq, 0) as behind, p.attempt,
       nullif(p.not_before, '-infinity') as not_before, coalesce(p.error_code, '') as error_code,
       coalesce(p.error_cause, '') as error_cause, coalesce(p.resolve, '') as resolve, h.id as hold,
       coalesce(h.kind, '') as hold_kind
from sync.push_intent p left join sync.mass_hold h on h.id = p.hold_id and p.state = 'HELD'
where p.org_id = %(org)s and p.entity_id = %(root)s

-- waits --
-- Whose link it waits for, and how those stand at the same connection.
select w.connection, w.waits_for as entity_id, coalesce(p.state, '') as state, coalesce(p.error_code, '') as error_code,
       coalesce(p.error_cause, '') as error_cause
from sync.push_wait w
left join lateral (
  select p.state, p.error_code, p.error_cause from sync.push_intent p
  where p.entity_id = w.waits_for and p.connection = w.connection and p.org_id = w.org_id
  order by p.state = 'DONE' limit 1) p on true
where w.org_id = %(org)s and w.entity_id = %(root)s and w.required order by w.waits_for

-- deliveries --
select connection, op, outcome, status, cause, attempt, committed_at, planned_at, claimed_at, sent_at, answered_at,
       recorded_at
from (select *, row_number() over (partition by connection order by recorded_at desc, id desc) as n
      from sync.delivery where org_id = %(org)s and entity_id = %(root)s) d
where n <= %(limit)s order by recorded_at desc, id desc

-- decisions --
select connection, decision, reason, source, occurred_at, received_at, applied_at
from (select *, row_number() over (partition by connection order by applied_at desc) as n
      from sync.applied_event where org_id = %(org)s and entity_id = any(%(ids)s)) d
where n <= %(limit)s order by applied_at desc

-- decisions_by_external_id --
select connection, decision, reason, source, occurred_at, received_at, applied_at
from sync.applied_event where org_id = %(org)s and external_id = %(id)s
union all
select connection, 'waiting', case when waits_for = '{}' then 'row_locked' else 'create_in_doubt' end, '', received_at, received_at, waits_since
from sync.waiting_event where org_id = %(org)s and external_id = %(id)s
union all
select h.connection, 'waiting', coalesce('mass_delete, hold ' || h.hold_id, 'overtaken'), '', h.occurred_at, h.received_at, h.received_at
from sync.held_event h where h.org_id = %(org)s and h.external_id = %(id)s
order by applied_at desc limit %(limit)s

-- conflicts --
select connection, field from sync.conflict
where org_id = %(org)s and entity_id = any(%(ids)s) and resolved_at is null order by field

-- losers --
select connection, id, field, winner, rule, decided_at, restored_at
from (select *, row_number() over (partition by connection order by id desc) as n
      from sync.conflict_log where org_id = %(org)s and entity_id = any(%(ids)s)) d
where n <= %(limit)s order by id desc

-- reviews --
select connection, kind from sync.review
where org_id = %(org)s and subject = any(%(subjects)s) and closed_at is null order by kind

-- dead_letters --
select connection, id, source, code, cause from sync.dead_letter
where org_id = %(org)s and state = 'open' and record_key = any(%(keys)s) order by id desc limit %(limit)s
