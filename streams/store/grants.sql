-- Who may do what; run by the owner at every `syncline migrate`. `streams.store.roles` says what each role is for.

grant usage on schema canon, sync to syncline_app, syncline_applier, syncline_bulk, syncline_capture;
grant usage on schema jobs to syncline_app, syncline_applier;

grant select, insert, update, delete on all tables in schema canon to syncline_app, syncline_applier, syncline_bulk;
grant select, insert, update, delete on all tables in schema sync, jobs to syncline_app, syncline_applier;
grant usage, select on all sequences in schema canon, sync, jobs to syncline_app, syncline_applier;

-- What the owner makes later, too.
alter default privileges in schema canon
  grant select, insert, update, delete on tables to syncline_app, syncline_applier, syncline_bulk;
alter default privileges in schema sync, jobs
  grant select, insert, update, delete on tables to syncline_app, syncline_applier;
alter default privileges in schema canon, sync, jobs
  grant usage, select on sequences to syncline_app, syncline_applier;

-- Only triggers write tombstones and events, only a migration the history.
revoke insert, update, delete on sync.tombstone, sync.push_event, sync.migration from syncline_app, syncline_applier;
grant select on sync.tombstone to syncline_bulk;

-- The connector's heartbeat query; its columns to read follow the model, see `roles.grant`.
grant select, insert, update on sync.heartbeat to syncline_capture;
