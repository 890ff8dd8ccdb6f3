-- Events that cannot be applied yet. They tell of a record that may be the one which a create of ours, whose answer we do
-- not have, has just made: decided now, they would make a second row of it. Or somebody has their row.

create table sync.waiting_event (
  event_id      bytea primary key,
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  external_id   text not null,
  waits_for     text[] not null,                        -- entities whose creates are in doubt; empty: for a row
  value         bytea not null,                         -- the record of inbound.events
  position      text,
  received_at   timestamptz not null,
  not_before    timestamptz not null,                   -- when to look again, whatever became of the creates
  waits_since   timestamptz not null,
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index waiting_event_record on sync.waiting_event (external_id, external_type, connection, org_id);
comment on table sync.waiting_event is 'Events that wait for the answers to our own creates, or for a row that is locked.';

-- Creates that were sent and are not settled: one entry per create, none per update.
create index push_intent_doubt on sync.push_intent (org_id, connection, external_type)
  where op = 'create' and body is not null;
