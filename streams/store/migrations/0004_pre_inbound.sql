-- Polls whose events are on their way: `applied_through` moves over one when every partition has been applied so far.

create table sync.poll_mark (
  id            bigint generated always as identity primary key,
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  through       timestamptz,                            -- their time; everything up to here was published; null: it failed half-way
  positions     jsonb not null,                         -- partition of inbound.events -> the offset after the poll's last event
  foreign key (org_id, connection) references sync.connection on delete cascade
);
comment on table sync.poll_mark is 'How far inbound.events must be applied before a poll counts as applied.';

-- Links whose record referred to another that was not known yet.
create index external_link_unresolved on sync.external_link (org_id, id) where link_metadata ? 'unresolved';
