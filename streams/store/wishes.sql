-- The wish that a connection hold the current state of an entity, raised by whoever wants it: the planner, the applier,
-- the sweep, a person. Batches come as one JSON parameter.

-- raise --
-- A write in flight stays in flight: its result sees the higher wanted_seq and goes on. `planned_snapshot` proves later
-- which changes this wish covers.
insert into sync.push_intent as p
  (org_id, connection, external_type, entity_type, entity_id, sync_key, state, reason, priority, epoch, not_before, committed_at,
   planned_at, planned_snapshot)
select n.org_id, n.connection, n.external_type, n.entity_type, n.entity_id, n.org_id || '/' || n.entity_id, n.state, n.reason,
       coalesce(n.priority, 0), c.epoch, %(now)s, coalesce(n.committed_at, %(now)s), %(now)s, pg_current_snapshot()
from json_to_recordset(%(rows)s::json) as n(org_id text, connection text, external_type text, entity_type text, entity_id text,
     state text, reason text, priority smallint, committed_at timestamptz)
join sync.connection c on c.org_id = n.org_id and c.name = n.connection
order by n.org_id, n.connection, n.external_type, n.entity_id
on conflict (org_id, connection, external_type, entity_id) do update set
  wanted_seq = p.wanted_seq + 1,
  reason = excluded.reason,
  epoch = excluded.epoch,
  priority = case when p.state in ('DONE', 'DEAD') then excluded.priority else least(p.priority, excluded.priority) end,
  state = case when p.state in ('DONE', 'DEAD') or p.state in ('HELD', 'WAITING') and p.hold_id is null then excluded.state else p.state end,
  attempt = case when p.state in ('DONE', 'DEAD') then 0 else p.attempt end,
  first_failed_at = case when p.state in ('DONE', 'DEAD') then null else p.first_failed_at end,
  not_before = case when p.state in ('DONE', 'DEAD', 'HELD', 'WAITING') then excluded.not_before else p.not_before end,
  committed_at = case when p.state in ('DONE', 'DEAD') or p.state = 'SENDING' and p.planned_at <= p.claimed_at
                      then excluded.committed_at else p.committed_at end,
  planned_at = case when p.state in ('DONE', 'DEAD') or p.state = 'SENDING' and p.planned_at <= p.claimed_at
                    then excluded.planned_at else p.planned_at end,
  planned_snapshot = excluded.planned_snapshot

-- wake --
select pg_notify('sync_push', '')
