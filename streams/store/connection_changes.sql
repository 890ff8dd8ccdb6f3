-- Statements that change a connection. Each raises the epoch, so that whoever holds an older reading knows.

-- one_at_a_time --
-- Two that connect the same name at once: the second finds what the first has made.
select pg_advisory_xact_lock(hashtextextended('syncline connection ' || %(org_id)s || '/' || %(name)s, 0))

-- upsert --
insert into sync.connection as c
  (org_id, name, system, url, auth, settings, option, mode, delete_policy, conflict_policy, conflict_policies,
   retry_policy, poll_interval_s,
   allow_http, allow_private, http2, compress, filters, on_leave, fields, concurrency, guard, budget, gates, poll_intervals, review_within_s,
   full_read_every_s)
values (%(org_id)s, %(name)s, %(system)s, %(url)s, %(auth)s, %(settings)s, %(option)s, %(mode)s, %(delete_policy)s,
        %(conflict_policy)s, %(conflict_policies)s, %(retry_policy)s, %(poll_interval_s)s, %(allow_http)s, %(allow_private)s, %(http2)s,
        %(compress)s, %(filters)s, %(on_leave)s, %(fields)s, %(concurrency)s, %(guard)s, %(budget)s, %(gates)s, %(poll_intervals)s,
        %(review_within_s)s, %(full_read_every_s)s)
on conflict (org_id, name) do update set
  url = excluded.url, auth = excluded.auth, settings = excluded.settings, option = excluded.option,
  mode = excluded.mode, delete_policy = excluded.delete_policy, conflict_policy = excluded.conflict_policy,
  conflict_policies = excluded.conflict_policies, retry_policy = excluded.retry_policy, poll_interval_s = excluded.poll_interval_s, allow_http = excluded.allow_http,
  allow_private = excluded.allow_private, http2 = excluded.http2, compress = excluded.compress,
  filters = excluded.filters, on_leave = excluded.on_leave, fields = excluded.fields,
  poll_intervals = excluded.poll_intervals, concurrency = excluded.concurrency, guard = excluded.guard, budget = excluded.budget, gates = excluded.gates,
  review_within_s = excluded.review_within_s, full_read_every_s = excluded.full_read_every_s, state = 'active', state_reason = null, epoch = c.epoch + 1

-- change --
update sync.connection set
  option = %(option)s, mode = %(mode)s, delete_policy = %(delete_policy)s, conflict_policy = %(conflict_policy)s,
  conflict_policies = %(conflict_policies)s,
  retry_policy = %(retry_policy)s, poll_interval_s = %(poll_interval_s)s, allow_http = %(allow_http)s,
  allow_private = %(allow_private)s, http2 = %(http2)s, compress = %(compress)s, filters = %(filters)s,
  on_leave = %(on_leave)s, fields = %(fields)s, concurrency = %(concurrency)s, guard = %(guard)s, budget = %(budget)s,
  gates = %(gates)s, poll_intervals = %(poll_intervals)s, review_within_s = %(review_within_s)s,
  full_read_every_s = %(full_read_every_s)s, epoch = epoch + 1
where org_id = %(org_id)s and name = %(name)s

-- open_gates --
-- What waited for its gate goes on; what a person has to approve stays.
update sync.push_intent set state = 'PENDING', reason = 'gate_opened', not_before = %(now)s
where org_id = %(org_id)s and connection = %(name)s and state = 'HELD' and hold_id is null
  and entity_type = any(%(types)s)

-- linked_roots --
-- Whatever they have of ours, living or not.
select distinct entity_id from sync.external_link
where org_id = %(org_id)s and connection = %(name)s and entity_type = %(type)s and deleted_at is null
  and entity_id is not null
order by 1

-- pause --
-- By Syncline itself; a connection that is not active stays as it is.
update sync.connection set state = 'paused', state_reason = %(reason)s, epoch = epoch + 1
where org_id = %(org_id)s and name = %(name)s and state = 'active'

-- set_state --
update sync.connection set state = %(state)s, state_reason = %(reason)s, epoch = epoch + 1
where org_id = %(org_id)s and name = %(name)s

-- add_endpoint --
insert into sync.webhook_endpoint (token_hash, org_id, connection) values (%(hash)s, %(org_id)s, %(name)s)

-- drop_endpoints --
delete from sync.webhook_endpoint where org_id = %(org_id)s and connection = %(name)s

-- notify --
select pg_notify('sync_connection', %(org_id)s || '/' || %(name)s)

-- audit --
insert into sync.audit (org_id, actor, action, subject, detail)
values (%(org_id)s, %(actor)s, %(action)s, %(subject)s, %(detail)s)
