-- The sweep: whatever capture did not bring is found in the tables by the transaction that changed it.

alter table sync.tombstone add column changed_xid xid8 not null default pg_current_xact_id();
create index tombstone_changed_xid on sync.tombstone (changed_xid);

-- A part that moved to another root: its row leads to the new root only, so the one it left is noted.
create table sync.left_root (
  changed_xid xid8 not null default pg_current_xact_id(),
  sync_key    text not null,
  org_id      text not null,
  origin      text not null default 'local',              -- whoever moved it: neither root is as they know it
  left_at     timestamptz not null default now(),
  primary key (changed_xid, sync_key)
);
comment on table sync.left_root is 'Roots that a part has left; forgotten once swept.';

-- Definer, as with tombstones; hung on every table of parts by `syncline migrate`.
create function sync.note_left_root() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into sync.left_root (sync_key, org_id) values (old.sync_key, old.org_id) on conflict do nothing;
  return null;
end $$;
revoke execute on function sync.note_left_root() from public;
comment on function sync.note_left_root() is 'Notes the root that a part has left.';

-- What was committed before a connection was made is not swept for it: `push --all` and runs are for that.
alter table sync.connection add column made_snapshot pg_snapshot not null default pg_current_snapshot();

create function sync.connection_returns() returns trigger
language plpgsql
as $$
begin
  new.made_snapshot := pg_current_snapshot();
  return new;
end $$;
create trigger connection_returns before update on sync.connection for each row
  when (old.state = 'disconnected' and new.state <> 'disconnected') execute function sync.connection_returns();
comment on function sync.connection_returns() is 'A connection that comes back begins as a new one does.';

-- A window holds what `noted` sees and `swept` does not: a transaction that goes on for long keeps nobody but itself.
create table sync.sweep (
  id          integer primary key check (id = 1),
  swept       pg_snapshot not null,                       -- all changes that this sees are swept
  noted       pg_snapshot,                                -- end of the window in hand
  noted_at    timestamptz,
  noted_lsn   pg_lsn,                                     -- what capture must have passed before the window is judged
  ends        jsonb,                                      -- and then what the planner must have read: [{topic, partition, at}]
  blind       boolean not null default false,             -- capture did not see all of the window
  blind_until pg_snapshot,                                -- somebody saw that capture was not there, and this is when
  through_xid xid8,                                       -- the window is swept up to and with this transaction and key
  through_key text,
  turned_at   timestamptz,                                -- somebody was at work
  swept_at    timestamptz                                 -- the mark moved
);
comment on table sync.sweep is 'How far the tables have been compared with what was planned.';
-- What is there already is not swept: it is pushed by `push --all` or a run.
insert into sync.sweep (id, swept) values (1, pg_current_snapshot());

-- Capture begins anew here: what was committed before may never have been captured. Definer, for the role that makes slots.
create function sync.capture_begins() returns void
language sql security definer
set search_path = pg_catalog, pg_temp
as $$ update sync.sweep set blind_until = pg_current_snapshot() where id = 1 $$;
revoke execute on function sync.capture_begins() from public;
grant execute on function sync.capture_begins() to syncline_capture;
comment on function sync.capture_begins() is 'Says that the slot is new.';

create table sync.counter (
  connection  text not null,
  entity_type text not null,
  name        text not null,                              -- cdc_missed, swept_behind, swept_without_capture
  org_id      text not null,
  value       bigint not null,
  primary key (connection, entity_type, name, org_id)
);
comment on table sync.counter is 'Roots that the sweep had to plan, by why capture had not.';

create table sync.capture_state (
  id         integer primary key check (id = 1),
  state      text not null check (state in ('ok', 'warning', 'red')),
  code       text not null,
  cause      text not null,
  next_step  text not null,
  lag_bytes  bigint,
  forecast_s double precision,                            -- until the slot is lost or the disk full, as the WAL grew lately; null: not in sight
  since      timestamptz not null,
  at         timestamptz not null
);
comment on table sync.capture_state is 'What the watch over capture saw last.';
