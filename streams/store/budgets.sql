-- The shared rate budget; what may be called is decided in streams.rules.budgets.

-- load --
select call_limit, period_s, raise_to, extract(epoch from raise_at)::float8, spent, chosen_spent,
       extract(epoch from blocked_until)::float8, version
from sync.rate_window where org_id = %(org)s and connection = %(connection)s

-- save --
-- Nothing is written, and nothing returned, when somebody else has changed it since.
insert into sync.rate_window as w (org_id, connection, call_limit, period_s, raise_to, raise_at, spent, chosen_spent,
                                   blocked_until, version, updated_at)
values (%(org)s, %(connection)s, %(call_limit)s, %(period_s)s, %(raise_to)s, %(raise_at)s, %(spent)s::jsonb,
        %(chosen_spent)s::jsonb, %(blocked_until)s, %(version)s + 1, %(now)s)
on conflict (org_id, connection) do update set
  call_limit = excluded.call_limit, period_s = excluded.period_s, raise_to = excluded.raise_to,
  raise_at = excluded.raise_at, spent = excluded.spent, chosen_spent = excluded.chosen_spent,
  blocked_until = excluded.blocked_until, version = excluded.version, updated_at = excluded.updated_at
where w.version = %(version)s
returning version

-- usage --
select c.name, c.budget, w.call_limit, w.period_s, w.raise_to, extract(epoch from w.raise_at)::float8, w.spent,
       w.chosen_spent, extract(epoch from w.blocked_until)::float8
from sync.connection c left join sync.rate_window w on w.org_id = c.org_id and w.connection = c.name
where c.org_id = %(org)s and (w.org_id is not null or c.budget <> '{}')
order by c.name
