-- How far their clocks are from ours, records of theirs that must be read in full, and polls by external type.

create table sync.clock_error (
  org_id      text not null,
  connection  text not null,
  ahead_s     double precision not null,                -- how far their clock is ahead of ours, as last measured
  error_s     double precision not null,                -- the largest error measured since `since`
  before_s    double precision not null default 0,      -- the largest one of the time before that
  since       timestamptz not null,
  measured_at timestamptz not null,
  primary key (org_id, connection),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
comment on table sync.clock_error is 'What the Date of their answers says of their clock.';

create table sync.fetch_intent (
  org_id          text not null,
  connection      text not null,
  external_type   text not null,
  external_id     text not null,
  wanted_seq      bigint not null default 1,            -- + 1 with every hint
  claimed_seq     bigint not null default 0,            -- what the read in flight covers
  done_seq        bigint not null default 0,
  poll_seq        bigint,                               -- what the poll named by poll_at covers, should it bring the record
  poll_at         timestamptz,
  state           text not null default 'PENDING' check (state in ('PENDING', 'READING', 'RETRY', 'DONE', 'DEAD')),
  reason          text not null check (reason in ('hint', 'partial', 'delete', 'missing')),
  occurred_at     timestamptz not null,                 -- their time of the oldest hint that no read covers yet
  wanted_at       timestamptz not null,                 -- our time of the same
  not_before      timestamptz not null,
  lease_until     timestamptz,
  fence           bigint not null default 0,            -- + 1 with every claim; a result with an older fence changes nothing
  attempt         integer not null default 0,
  first_failed_at timestamptz,
  missed_at       timestamptz,                          -- when they first said that there is no such record
  error_code      text,
  error_cause     text,
  done_at         timestamptz,
  primary key (external_id, connection, external_type, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
) with (fillfactor = 60);
create index fetch_intent_ready on sync.fetch_intent (org_id, connection, not_before) where state in ('PENDING', 'RETRY');
create index fetch_intent_reading on sync.fetch_intent (org_id, connection, lease_until) where state = 'READING';
create index fetch_intent_over on sync.fetch_intent (done_at) where state = 'DONE';
comment on table sync.fetch_intent is 'Records of theirs that something changed in, and that must be read in full.';

alter table sync.checkpoint add column wanted_at timestamptz;  -- a poll is wished for before its time
alter table sync.connection add column poll_intervals jsonb not null default '{}';  -- external type -> seconds
