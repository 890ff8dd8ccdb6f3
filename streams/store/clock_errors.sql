-- How far their clocks are from ours.

-- save --
-- The error is the largest of two stretches of time, this one and the one before, so that it is forgotten in the end.
insert into sync.clock_error as e (org_id, connection, ahead_s, error_s, since, measured_at)
values (%(org)s, %(connection)s, %(ahead_s)s, %(error_s)s, %(now)s, %(now)s)
on conflict (org_id, connection) do update set
  ahead_s = excluded.ahead_s,
  before_s = case when e.since + %(stretch)s > excluded.since then e.before_s
                  when e.since + 2 * %(stretch)s > excluded.since then e.error_s else 0 end,
  error_s = case when e.since + %(stretch)s > excluded.since then greatest(e.error_s, excluded.error_s) else excluded.error_s end,
  since = case when e.since + %(stretch)s > excluded.since then e.since else excluded.since end,
  measured_at = excluded.measured_at

-- load --
select ahead_s, greatest(error_s, before_s) from sync.clock_error where org_id = %(org)s and connection = %(connection)s

-- load_all --
select connection, ahead_s, greatest(error_s, before_s) as error_s, measured_at from sync.clock_error
where org_id = %(org)s order by connection
