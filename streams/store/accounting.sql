-- Counts of where every change went, and whether they add up (rule R25).

-- count_routes --
-- Ordered, so that two planners take the rows in the same order.
insert into sync.route_count as c (connection, entity_type, verdict, reason, day, org_id, roots)
select r.connection, r.entity_type, r.verdict, r.reason, (%(now)s::timestamptz at time zone 'UTC')::date, r.org_id, r.roots
from json_to_recordset(%(rows)s::json) as r(org_id text, connection text, entity_type text, verdict text, reason text, roots bigint)
order by r.connection, r.entity_type, r.verdict, r.reason, r.org_id
on conflict (connection, entity_type, verdict, reason, day, org_id) do update set roots = c.roots + excluded.roots

-- routes --
select org_id, connection, verdict, sum(roots)::bigint as roots from sync.route_count group by 1, 2, 3

-- wishes --
-- Every raised wish is one step of wanted_seq, every fulfilled or coalesced one of done_seq. A wish that is neither done
-- nor in a state that somebody looks at is lost: `astray`, once it is old enough.
select org_id, connection, sum(wanted_seq)::bigint as wished, sum(done_seq)::bigint as confirmed,
  coalesce(sum(wanted_seq - done_seq) filter (where state not in ('DONE', 'PARKED', 'DEAD')), 0)::bigint as pending,
  coalesce(sum(wanted_seq - done_seq) filter (where state = 'PARKED'), 0)::bigint as parked,
  coalesce(sum(wanted_seq - done_seq) filter (where state = 'DEAD'), 0)::bigint as dead,
  coalesce(sum(wanted_seq - done_seq) filter (where state = 'DONE' and planned_at > %(settled)s), 0)::bigint as fresh
from sync.push_intent group by 1, 2

-- fold_routes --
with gone as (
  delete from sync.route_count where day < %(before)s and day > '-infinity' returning *)
insert into sync.route_count as c (connection, entity_type, verdict, reason, day, org_id, roots)
select connection, entity_type, verdict, reason, '-infinity', org_id, sum(roots) from gone group by 1, 2, 3, 4, 6
order by 1, 2, 3, 4, 6
on conflict (connection, entity_type, verdict, reason, day, org_id) do update set roots = c.roots + excluded.roots

-- fold_deliveries --
with gone as (
  delete from sync.delivery_count where day < %(before)s and day > '-infinity' returning *)
insert into sync.delivery_count as c (connection, entity_type, outcome, day, org_id, calls, retries, bytes, seconds)
select connection, entity_type, outcome, '-infinity', org_id, sum(calls), sum(retries), sum(bytes), sum(seconds) from gone group by 1, 2, 3, 5
order by 1, 2, 3, 5
on conflict (connection, entity_type, outcome, day, org_id) do update set
  calls = c.calls + excluded.calls, retries = c.retries + excluded.retries, bytes = c.bytes + excluded.bytes, seconds = c.seconds + excluded.seconds

-- keep_deliveries --
select made, dropped from sync.keep_deliveries(%(today)s, %(ahead)s, %(kept)s)
