-- How far their clocks are from ours, and polls by external type.

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

alter table sync.connection add column poll_intervals jsonb not null default '{}';  -- external type -> seconds
