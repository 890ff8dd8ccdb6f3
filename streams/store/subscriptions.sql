-- The webhook subscriptions that we keep at systems whose API makes them.

-- expect --
-- A row for every connection that should have one.
insert into sync.subscription (connection, org_id, since, due_at)
select name, org_id, %(now)s, %(now)s from sync.connection where state <> 'disconnected' and system = any(%(systems)s)
on conflict (connection, org_id) do nothing

-- claim --
-- One that is due, for as long as a look may take; another worker takes another one.
update sync.subscription s set due_at = %(until)s
from (
  select d.connection, d.org_id from sync.subscription d join sync.connection c on c.org_id = d.org_id and c.name = d.connection
  where d.due_at <= %(now)s and c.state <> 'paused'
  order by d.due_at limit 1 for update of d skip locked
) due
where s.connection = due.connection and s.org_id = due.org_id
returning s.connection, s.org_id, s.external_id, s.secret_name, s.state, s.failures, s.since

-- made --
-- At once after they answered; no row: we were disconnected meanwhile. One that is leaving goes on leaving.
update sync.subscription set external_id = %(external_id)s, secret_name = %(secret_name)s, activations = activations + 1
where connection = %(connection)s and org_id = %(org)s
returning state

-- looked --
update sync.subscription set
  state = %(state)s, cause = %(cause)s, failures = %(failures)s, looked_at = %(now)s, due_at = %(due)s,
  external_id = case when %(gone)s then null else external_id end,
  since = case when state = %(state)s then since else %(now)s end
where connection = %(connection)s and org_id = %(org)s and (state <> 'leaving' or %(state)s = 'leaving')

-- look_again --
-- Whatever decides about it has changed.
update sync.subscription set due_at = %(now)s, state = case when state = 'leaving' then 'wanted' else state end
where connection = %(connection)s and org_id = %(org)s

-- leave --
-- What was made, or is perhaps being made, is to be removed; where there is surely none, there is nothing to remember.
with none as (
  delete from sync.subscription
  where connection = %(connection)s and org_id = %(org)s and external_id is null
    and (state = 'no_public_url' or looked_at is null and due_at <= %(now)s)
  returning connection
)
update sync.subscription set state = 'leaving', cause = null, failures = 0, since = %(now)s, due_at = %(now)s
where connection = %(connection)s and org_id = %(org)s and not exists (select from none)

-- forget --
delete from sync.subscription where connection = %(connection)s and org_id = %(org)s and state = 'leaving'

-- shown --
select s.connection, s.state, s.cause, s.since, s.looked_at, s.activations
from sync.subscription s where s.org_id = %(org)s order by s.connection

-- troubled --
select connection, state, cause, since from sync.subscription where state <> 'active' order by connection, org_id
