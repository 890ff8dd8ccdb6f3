-- Records that must be read: somebody told that they changed, and not, or not in a way that we may believe, what they are.

create table sync.fetch_intent (
  external_id     text not null,
  external_type   text not null,
  connection      text not null,
  org_id          text not null,
  reason          text not null check (reason in ('hint', 'partial', 'delete', 'missing')),
  wanted_seq      bigint not null default 1,            -- + 1 for every event that tells of it
  done_seq        bigint not null default 0,            -- what was wanted when the last read that was published began
  wanted_at       timestamptz not null,
  not_before      timestamptz not null,
  lease_until     timestamptz,                          -- a worker reads it; also the token of its claim
  attempt         integer not null default 0,           -- failures in a row
  first_failed_at timestamptz,
  missed_at       timestamptz,                          -- they had none of this id; asked again before it means a delete
  error_code      text,
  error_cause     text,
  primary key (external_id, external_type, connection, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index fetch_intent_due on sync.fetch_intent (connection, org_id, not_before) where wanted_seq > done_seq;
comment on table sync.fetch_intent is 'Records of theirs that are to be read in full.';
