-- From time to time a type is read in full although its checkpoint stands: what no time and no webhook told of is found.

alter table sync.connection add column full_read_every_s double precision not null default 86400
  check (full_read_every_s >= 0);                       -- 0: only where there is no checkpoint
alter table sync.checkpoint add column read_in_full_at timestamptz;  -- our time; the beginning of the last one that ended
