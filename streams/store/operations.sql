-- What a person who runs Syncline asks for: counts, ages, dead letters. Read only, but for the audit.

-- intents --
select connection, state, count(*) as count from sync.push_intent where org_id = %(org)s group by 1, 2 order by 1, 2

-- oldest_waiting --
-- Age of the oldest change that a connection does not have yet.
select connection, extract(epoch from %(now)s - min(coalesce(committed_at, planned_at)))::float8 as seconds
from sync.push_intent where org_id = %(org)s and state not in ('DONE', 'DEAD') group by 1

-- dead_letter_counts --
select coalesce(connection, '') as connection, count(*) as count from sync.dead_letter
where state = 'open' and (org_id = %(org)s or org_id is null) group by 1

-- conflict_counts --
select connection, count(*) as count from sync.conflict where org_id = %(org)s and resolved_at is null group by 1

-- waiting_for_people --
select a.what, count(a.at) as open, extract(epoch from %(now)s - min(a.at))::float8 as oldest_s,
  count(*) filter (where sync.due_at(a.at, c.review_within_s) < %(now)s) as overdue
from (
  select 'conflicts' as what, org_id, connection, opened_at as at from sync.conflict where org_id = %(org)s and resolved_at is null
  union all
  select 'reviews', org_id, connection, created_at from sync.review
  where org_id = %(org)s and closed_at is null and decision is null
  union all
  select what, null, null, null from unnest(array['conflicts', 'reviews']) what) a
left join sync.connection c on c.org_id = a.org_id and c.name = a.connection
group by 1

-- review_counts --
select connection, count(*) as count from sync.review where org_id = %(org)s and closed_at is null and decision is null group by 1

-- polls --
select connection, external_type, fetched_through, applied_through, applied_through as "lastSuccessfulPollTimestamp",
       polled_at, read_in_full_at, failures, last_error, recovered
from sync.checkpoint where org_id = %(org)s order by 1, 2

-- pushed_through --
-- Every change of ours up to this time is there; null before the first push. Neither what failed nor what waits is passed.
select connection, least(max(planned_at) filter (where state = 'DONE'),
         min(coalesce(committed_at, planned_at)) filter (where state <> 'DONE') - interval '1 microsecond') as at
from sync.push_intent where org_id = %(org)s group by 1 having count(*) filter (where state = 'DONE') > 0

-- reads --
select connection, count(*) as count, count(*) filter (where attempt > 0) as failing, min(wanted_at) as oldest
from sync.fetch_intent where org_id = %(org)s and wanted_seq > done_seq group by 1

-- progress --
select consumer, topic, partition, next_offset from sync.progress order by 1, 2, 3

-- dead_letters --
-- Those without an organisation are records that could not be read far enough to know one.
select id, org_id, connection, source, record_key, position, code, cause, state, created_at, closed_at,
       octet_length(value) as bytes
from sync.dead_letter
where (org_id = %(org)s or org_id is null) and (%(connection)s::text is null or connection = %(connection)s)
  and (%(all)s or state = 'open')
order by id desc limit %(limit)s

-- dead_letter --
select id, org_id, connection, source, record_key, headers, position, code, cause, state, created_at, closed_at,
       octet_length(value) as bytes
from sync.dead_letter where id = %(id)s and (org_id = %(org)s or org_id is null)

-- dead_letter_value --
select value from sync.dead_letter where id = %(id)s and (org_id = %(org)s or org_id is null)

-- pushes --
-- Wishes, the newest first; without a state those that are not fulfilled.
select p.connection, p.external_type, p.entity_type, p.entity_id, p.state, p.reason, p.priority, p.attempt,
       nullif(p.not_before, '-infinity') as not_before, greatest(p.wanted_seq - p.done_seq, 0) as behind,
       p.op, p.error_code, p.error_cause, p.hold_id, p.resolve, p.committed_at, p.planned_at,
       coalesce(w.waits_for, '{}') as waits_for
from sync.push_intent p
left join lateral (
  select array_agg(distinct w.waits_for) as waits_for from sync.push_wait w
  where w.entity_id = p.entity_id and w.connection = p.connection and w.external_type = p.external_type
    and w.org_id = p.org_id and w.required and p.state = 'WAITING') w on true
where p.org_id = %(org)s and (%(connection)s::text is null or p.connection = %(connection)s)
  and (%(entity)s::text is null or p.entity_id = %(entity)s)
  and case when %(state)s::text is not null then p.state = %(state)s
           when %(entity)s::text is not null then true else p.state <> 'DONE' end
order by p.planned_at desc nulls last, p.entity_id limit %(limit)s

-- lanes --
select connection, count(*) filter (where state = 'SENDING') as in_flight,
       count(*) filter (where state in ('PENDING', 'RETRY', 'UNKNOWN')) as queued,
       count(*) filter (where state = 'HELD') as held, count(*) filter (where state = 'WAITING') as waiting,
       count(*) filter (where state = 'PARKED') as parked,
       extract(epoch from %(now)s - min(coalesce(committed_at, planned_at))
         filter (where state in ('PENDING', 'RETRY', 'UNKNOWN', 'SENDING')))::float8 as oldest_s
from sync.push_intent where org_id = %(org)s and state not in ('DONE', 'DEAD') group by 1

-- breakers --
select connection, slot, failures, opened_at, code, cause from sync.breaker where org_id = %(org)s order by 1, 2

-- holds --
select h.id, h.connection, h.entity_type, h.kind, h.state, h.bound, h.opened_at, h.closed_at, h.closed_by, p.records
from sync.mass_hold h
left join lateral (
  select (select count(*) from sync.push_intent i where i.hold_id = h.id and i.state = 'HELD')
       + (select count(distinct e.external_id) from sync.held_event e where e.hold_id = h.id) as records) p on true
where h.org_id = %(org)s and (%(all)s or h.state = 'open' or p.records > 0) order by h.id desc limit %(limit)s
