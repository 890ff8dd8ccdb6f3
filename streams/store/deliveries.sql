-- Deliveries; a batch comes as one JSON parameter.

-- record --
-- `retries`: calls that were not the first of their write.
with r as materialized (
  select * from json_to_recordset(%(rows)s::json) as r(external_type text, entity_type text, entity_id text, sync_key text, external_id text,
    op text, outcome text, status int, cause text, reason text, before jsonb, delta jsonb, changed text[], bytes int, attempt int, idem_key text,
    seq bigint, committed_at timestamptz, planned_at timestamptz, claimed_at timestamptz, sent_at timestamptz, answered_at timestamptz)),
recorded as (
  insert into sync.delivery (org_id, connection, external_type, entity_type, entity_id, sync_key, external_id, op, outcome, status, cause, reason,
    before, delta, changed, bytes, attempt, idem_key, seq, committed_at, planned_at, claimed_at, sent_at, answered_at, recorded_at)
  select %(org)s, %(connection)s, r.external_type, r.entity_type, r.entity_id, r.sync_key, r.external_id, r.op, r.outcome, r.status, r.cause, r.reason,
    r.before, r.delta, coalesce(r.changed, '{}'), coalesce(r.bytes, 0), r.attempt, r.idem_key, r.seq, r.committed_at, r.planned_at, r.claimed_at,
    r.sent_at, r.answered_at, %(now)s
  from r)
insert into sync.delivery_count as c (connection, entity_type, outcome, day, org_id, calls, retries, bytes, seconds)
select %(connection)s, r.entity_type, r.outcome, (%(now)s::timestamptz at time zone 'UTC')::date, %(org)s, count(*),
       count(*) filter (where r.attempt > 1), coalesce(sum(r.bytes), 0), coalesce(sum(extract(epoch from r.answered_at - r.sent_at)), 0)
from r group by r.entity_type, r.outcome order by r.entity_type, r.outcome
on conflict (connection, entity_type, outcome, day, org_id) do update set
  calls = c.calls + excluded.calls, retries = c.retries + excluded.retries, bytes = c.bytes + excluded.bytes, seconds = c.seconds + excluded.seconds
