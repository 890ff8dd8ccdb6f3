-- The guard against mass deletes of theirs: what they delete beyond the bound is kept until a person has decided.

alter table sync.change_window drop constraint change_window_kind_check;
alter table sync.change_window add constraint change_window_kind_check check (kind in ('deletes', 'updates', 'their_deletes'));
alter table sync.mass_hold drop constraint mass_hold_kind_check;
alter table sync.mass_hold add constraint mass_hold_kind_check check (kind in ('deletes', 'updates', 'their_deletes'));

create table sync.held_event (
  event_id      bytea primary key,
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  external_id   text not null,
  hold_id       bigint references sync.mass_hold,       -- null: no question any more, they said more of the record since
  value         bytea not null,                         -- the record of inbound.events
  position      text,
  occurred_at   timestamptz not null,
  received_at   timestamptz not null,
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index held_event_record on sync.held_event (external_id, external_type, connection, org_id);
create index held_event_hold on sync.held_event (hold_id);
comment on table sync.held_event is 'Their deletes that wait for a decision about a mass change.';
