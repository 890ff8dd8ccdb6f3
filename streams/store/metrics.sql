-- What Prometheus is told of the database. Read only, all organisations; each statement reads an index that is as small as
-- what it counts, but for those of the slow part.

-- connections --
select org_id, name as connection, state from sync.connection

-- intents --
-- Those that are not done, and the COMMIT of the oldest change in them.
select org_id, connection, external_type, state, count(*) as count, min(coalesce(committed_at, planned_at)) as oldest
from sync.push_intent where state in ('PENDING', 'RETRY', 'UNKNOWN') group by 1, 2, 3, 4
union all
select org_id, connection, external_type, state, count(*), min(coalesce(committed_at, planned_at))
from sync.push_intent where state = 'SENDING' group by 1, 2, 3, 4
union all
select org_id, connection, external_type, state, count(*), min(coalesce(committed_at, planned_at))
from sync.push_intent where state in ('HELD', 'WAITING', 'PARKED', 'DEAD') group by 1, 2, 3, 4

-- dead_letters --
select coalesce(org_id, '') as org_id, coalesce(connection, '') as connection, source, count(*) as count
from sync.dead_letter where state = 'open' group by 1, 2, 3

-- waiting_events --
select org_id, connection, external_type, case when waits_for = '{}' then 'row_locked' else 'create_in_doubt' end as reason,
  count(*) as count, min(received_at) as oldest
from sync.waiting_event group by 1, 2, 3, 4
union all
select org_id, connection, external_type, case when attempt > 0 then 'reading_fails' else 'reading' end, count(*), min(wanted_at)
from sync.fetch_intent where wanted_seq > done_seq group by 1, 2, 3, 4

-- mass_holds --
select org_id, connection, entity_type, kind, count(*) as count from sync.mass_hold where state = 'open' group by 1, 2, 3, 4

-- breakers --
select org_id, connection, slot from sync.breaker

-- deliveries --
select org_id, connection, entity_type, outcome, sum(calls)::bigint as calls, sum(retries)::bigint as retries,
  sum(bytes)::bigint as bytes, sum(seconds) as seconds, coalesce(sum(calls) filter (where day >= %(yesterday)s), 0)::bigint as lately
from sync.delivery_count group by 1, 2, 3, 4

-- routes --
select org_id, connection, entity_type, verdict, reason, sum(roots)::bigint as roots from sync.route_count
where verdict <> 'seen' group by 1, 2, 3, 4, 5

-- conflicts --
select v.org_id, v.connection, v.entity_type, count(*) as count, min(v.opened_at) as oldest,
  count(*) filter (where sync.due_at(v.opened_at, c.review_within_s) < %(now)s) as overdue
from sync.conflict v left join sync.connection c on c.org_id = v.org_id and c.name = v.connection
where v.resolved_at is null group by 1, 2, 3

-- reviews --
select v.org_id, v.connection, v.kind, count(*) as count,
  count(*) filter (where sync.due_at(v.created_at, c.review_within_s) < %(now)s) as overdue
from sync.review v left join sync.connection c on c.org_id = v.org_id and c.name = v.connection
where v.closed_at is null and v.decision is null group by 1, 2, 3

-- losing_values --
-- What a rule or a person decided.
select org_id, connection, count(*) as resolved from sync.conflict_log group by 1, 2
