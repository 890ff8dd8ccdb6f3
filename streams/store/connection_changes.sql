-- Statements that change a connection. Each raises the epoch, so that whoever holds an older reading knows.

-- one_at_a_time --
-- Two that connect the same name at once: the second finds what the first has made.
select pg_advisory_xact_lock(hashtextextended('syncline connection ' || %(org_id)s || '/' || %(name)s, 0))

-- upsert --
insert into sync.connection as c
  (org_id, name, system, url, auth, settings, option, mode, delete_policy, conflict_policy, retry_policy,
   poll_interval_s, allow_http, gates)
values (%(org_id)s, %(name)s, %(system)s, %(url)s, %(auth)s, %(settings)s, %(option)s, %(mode)s, %(delete_policy)s,
        %(conflict_policy)s, %(retry_policy)s, %(poll_interval_s)s, %(allow_http)s, %(gates)s)
on conflict (org_id, name) do update set
  url = excluded.url, auth = excluded.auth, settings = excluded.settings, option = excluded.option,
  mode = excluded.mode, delete_policy = excluded.delete_policy, conflict_policy = excluded.conflict_policy,
  retry_policy = excluded.retry_policy, poll_interval_s = excluded.poll_interval_s,
  allow_http = excluded.allow_http, gates = excluded.gates, state = 'active', state_reason = null, epoch = c.epoch + 1

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
