-- The sweep and the watch over capture. Transaction ids go to and fro as numbers.

-- turn --
-- Whose turn it is: nobody else sweeps while this row is locked.
select swept::text::bigint, noted::text::bigint, waited, noted_lsn is not null and s.passed, s.found
from sync.sweep w
cross join lateral (
  select coalesce(bool_or(confirmed_flush_lsn >= w.noted_lsn), false) as passed,
         coalesce(bool_or(wal_status <> 'lost'), false) as found
  from pg_replication_slots where slot_name = %(slot)s and database = current_database()) s
where id = 1
for update of w skip locked

-- now_at --
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- note --
-- A window ends here; it is swept a turn later, or when capture has passed it.
update sync.sweep set noted = %(noted)s::text::xid8, noted_lsn = pg_current_wal_lsn(), waited = 0, turned_at = %(now)s where id = 1

-- wait --
update sync.sweep set waited = waited + 1, turned_at = %(now)s where id = 1

-- mark --
update sync.sweep set swept = %(swept)s::text::xid8, turned_at = %(now)s where id = 1

-- uncovered --
-- Of these changed roots: at which connection no wish was planned by somebody who saw the change.
select c.org_id, c.name, r.sync_key, array_agg(distinct r.origin)
from json_to_recordset(%(rows)s::json) as r(org_id text, entity_id text, sync_key text, origin text, xid text)
join sync.connection c on c.org_id = r.org_id and c.state <> 'disconnected'
left join sync.push_intent p on p.org_id = r.org_id and p.connection = c.name and p.entity_id = r.entity_id
where p.planned_snapshot is null or not pg_visible_in_snapshot(r.xid::xid8, p.planned_snapshot)
group by c.org_id, c.name, r.sync_key

-- count --
insert into sync.counter as c (name, org_id, value) values (%(name)s, %(org)s, %(more)s)
on conflict (name, org_id) do update set value = c.value + excluded.value

-- tell_capture --
insert into sync.capture_state as s (id, state, code, cause, next_step, lag_bytes, forecast_s, since, at)
values (1, %(state)s, %(code)s, %(cause)s, %(next_step)s, %(lag_bytes)s, %(forecast_s)s, %(now)s, %(now)s)
on conflict (id) do update set state = excluded.state, code = excluded.code, cause = excluded.cause, next_step = excluded.next_step,
  lag_bytes = excluded.lag_bytes, forecast_s = excluded.forecast_s, at = excluded.at,
  since = case when s.state = excluded.state and s.code = excluded.code then s.since else excluded.since end
