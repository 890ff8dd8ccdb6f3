-- Who wins a conflict, by entity type and field; and a resolver that makes one value of two as a policy of its own.

alter table sync.connection
  add column conflict_policies jsonb not null default '{}';  -- entity type -> see streams.rules.policies
alter table sync.connection drop constraint connection_conflict_policy_check;
alter table sync.connection add constraint connection_conflict_policy_check
  check (conflict_policy in ('lww', 'lww_record', 'merge', 'local', 'remote', 'manual'));
