-- What a connection's calls are limited to, as its system tells, and what its workers have spent of it.

create table sync.rate_window (
  org_id        text not null,
  connection    text not null,
  call_limit    integer,                                  -- as they told; null: nothing told, or only to wait
  period_s      double precision,
  raise_to      integer,                                  -- a higher limit that they told, taken over at raise_at
  raise_at      timestamptz,
  spent         jsonb not null default '[]',              -- [[counts until (epoch seconds), calls], …] of call_limit
  chosen_spent  jsonb not null default '[]',              -- the same of connection.budget, which a person set
  blocked_until timestamptz,                              -- Retry-After
  version       bigint not null,                          -- + 1 with every change; who changes names what he has seen
  updated_at    timestamptz not null,
  primary key (org_id, connection),
  foreign key (org_id, connection) references sync.connection on delete cascade
) with (fillfactor = 50);                                 -- changes several times per second stay in their page
comment on table sync.rate_window is 'The rate budget of a connection, shared by all workers.';
