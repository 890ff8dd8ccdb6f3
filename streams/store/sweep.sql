-- The sweep and the watch over capture. Snapshots and transaction ids go to and fro as text.

-- turn --
-- Whose turn it is: nobody else sweeps while this row is locked.
select w.turned_at, w.noted::text, w.noted_at, w.blind or w.blind_until is not null as blind, s.found as captured,
       coalesce(s.confirmed >= w.noted_lsn, false) as passed, w.ends is not null as has_ends,
       pg_snapshot_xmax(w.swept) > pg_snapshot_xmax(pg_current_snapshot()) as restored
from sync.sweep w
cross join lateral (
  select coalesce(bool_or(wal_status <> 'lost'), false) as found, max(confirmed_flush_lsn) as confirmed
  from pg_replication_slots where slot_name = %(slot)s and database = current_database()) s
where id = 1
for update of w skip locked

-- restored --
-- A dump was loaded into a server that counts transactions from its own beginning: no snapshot of the old one proves
-- anything here. Whatever has changed since is swept, and more; what they hold already ends at the comparison with it.
with connections as (update sync.connection set made_snapshot = '3:3:'),
intents as (update sync.push_intent set planned_snapshot = null where planned_snapshot is not null),
left_roots as (delete from sync.left_root)
update sync.sweep set swept = '3:3:', noted = null, blind_until = pg_current_snapshot(), turned_at = %(now)s where id = 1

-- note --
-- A window ends here. The position is read after the snapshot, so that every commit it sees lies before.
update sync.sweep set noted = pg_current_snapshot(), noted_lsn = pg_current_wal_insert_lsn(), noted_at = %(now)s, ends = null,
  blind = blind_until is not null or not %(captured)s, blind_until = null, through_xid = null, through_key = null, turned_at = %(now)s
where id = 1

-- wait --
update sync.sweep set turned_at = %(now)s where id = 1

-- again --
-- Nobody was at work: capture and planner were away too, or had no reason to hurry.
update sync.sweep set noted_at = %(now)s, turned_at = %(now)s where id = 1

-- expect --
-- Capture has passed the window: this is how far the planner must have read.
update sync.sweep set ends = %(ends)s::jsonb where id = 1

-- read --
-- Whether the planner has read as far.
select not exists (
  select from sync.sweep w
  cross join lateral jsonb_to_recordset(w.ends) as e(topic text, partition integer, at bigint)
  left join sync.progress p on p.consumer = %(consumer)s and p.topic = e.topic and p.partition = e.partition
  where e.at > coalesce(p.next_offset, 0))

-- window --
-- What the statement over the tables needs: transactions that ran on over the last window's end, and those after it.
select array(select x::text from pg_snapshot_xip(swept) x where pg_visible_in_snapshot(x, noted)),
       pg_snapshot_xmax(swept)::text, pg_snapshot_xmax(noted)::text, noted::text,
       coalesce(through_xid, '0')::text, coalesce(through_key, '')
from sync.sweep where id = 1

-- advance --
update sync.sweep set through_xid = %(xid)s::xid8, through_key = %(key)s, turned_at = %(now)s, swept_at = %(now)s where id = 1

-- finish --
with done as (
  update sync.sweep set swept = noted, noted = null, turned_at = %(now)s, swept_at = %(now)s where id = 1 returning swept)
delete from sync.left_root l using done d where pg_visible_in_snapshot(l.changed_xid, d.swept)

-- uncovered --
-- Of these changed roots: at which connection no wish was planned by somebody who saw the change. What routing would pass
-- by for certain is left out; where capture was not there (`blind`), an origin proves nothing, because the row tells only
-- of its last change.
select c.org_id, c.name, r.root_type, r.sync_key, array_agg(distinct r.origin), min(r.changed_at)
from json_to_recordset(%(rows)s::json) as r(org_id text, root_type text, entity_id text, sync_key text, origin text, xid text, changed_at timestamptz)
join sync.connection c on c.org_id = r.org_id and c.state <> 'disconnected' and c.gates ? r.root_type
left join sync.push_intent p on p.org_id = r.org_id and p.connection = c.name and p.entity_id = r.entity_id
where r.origin <> 'bulk' and (%(blind)s or r.origin <> c.name)
  and not pg_visible_in_snapshot(r.xid::xid8, c.made_snapshot)
  and (p.planned_snapshot is null or not pg_visible_in_snapshot(r.xid::xid8, p.planned_snapshot))
group by 1, 2, 3, 4

-- count --
insert into sync.counter as c (connection, entity_type, name, org_id, value)
select r.connection, r.entity_type, %(name)s, r.org_id, r.value
from json_to_recordset(%(rows)s::json) as r(org_id text, connection text, entity_type text, value bigint)
order by 1, 2, 4
on conflict (connection, entity_type, name, org_id) do update set value = c.value + excluded.value

-- blind --
-- Up to now capture did not see everything. A sweep that is at work finds it out itself, unless the slot is new.
update sync.sweep set blind_until = pg_current_snapshot()
where id = (select id from sync.sweep where id = 1 for update skip locked)

-- tell_capture --
insert into sync.capture_state as s (id, state, code, cause, next_step, lag_bytes, forecast_s, since, at)
values (1, %(state)s, %(code)s, %(cause)s, %(next_step)s, %(lag_bytes)s, %(forecast_s)s, %(now)s, %(now)s)
on conflict (id) do update set state = excluded.state, code = excluded.code, cause = excluded.cause, next_step = excluded.next_step,
  lag_bytes = excluded.lag_bytes, forecast_s = excluded.forecast_s, at = excluded.at,
  since = case when s.state = excluded.state and s.code = excluded.code then s.since else excluded.since end

-- capture_state --
select state, code, cause, next_step, lag_bytes, forecast_s, since, at from sync.capture_state where id = 1
