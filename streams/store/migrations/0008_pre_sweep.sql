-- The sweep: whatever capture did not bring is found in the tables by the transaction that changed it.

alter table sync.tombstone add column changed_xid xid8 not null default pg_current_xact_id();
create index tombstone_changed_xid on sync.tombstone (changed_xid);

create table sync.sweep (
  id        integer primary key check (id = 1),
  swept     xid8 not null,                                -- all changes of transactions before this one are swept
  noted     xid8,                                         -- the end of the next window: noted a turn before it is swept
  noted_lsn pg_lsn,                                       -- what capture must have passed by then
  waited    integer not null default 0,                   -- turns that the window has waited for capture
  turned_at timestamptz
);
comment on table sync.sweep is 'How far the tables have been compared with what was planned.';
-- What is there already is not swept: it is pushed by `push --all` or a run.
insert into sync.sweep (id, swept) values (1, pg_snapshot_xmin(pg_current_snapshot()));

create table sync.counter (
  name   text not null,                                   -- cdc_missed, swept_behind, swept_without_capture
  org_id text not null,
  value  bigint not null,
  primary key (name, org_id)
);
comment on table sync.counter is 'Roots that the sweep had to plan, by why capture had not.';

create table sync.capture_state (
  id         integer primary key check (id = 1),
  state      text not null check (state in ('ok', 'red')),
  code       text not null,
  cause      text not null,
  next_step  text not null,
  lag_bytes  bigint,
  forecast_s double precision,                            -- until the slot is lost, as the WAL grew lately; null: not in sight
  since      timestamptz not null,
  at         timestamptz not null
);
comment on table sync.capture_state is 'What the watch over capture saw last.';
