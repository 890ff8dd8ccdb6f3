-- What the outbound engine needs beyond the first road: choices per connection, dependencies, doubt about what a system
-- did, and the guard against mass changes.

alter table sync.connection
  add column allow_private boolean not null default false,
  add column http2         boolean not null default false,
  add column compress      boolean not null default false,
  add column filters       jsonb not null default '{}',   -- entity type -> conditions on the row; all must hold, see rules.filters
  add column on_leave      text not null default 'keep' check (on_leave in ('keep', 'archive', 'delete')),
  add column fields        jsonb not null default '{}',   -- entity type -> {"include": [field …]} or {"exclude": [field …]}
  add column concurrency   integer check (concurrency between 1 and 256),  -- calls at once; null: what the manifest says
  add column guard         jsonb not null default '{}',   -- {"deletes": N, "updates": N} per type and 10 minutes; null: no bound
  add column budget        jsonb not null default '{}';   -- {"calls": N, "per_s": S} as a person set it; else it is learned

alter table sync.push_intent
  add column priority         smallint not null default 0,  -- 0 live, 1 backfill
  add column planned_snapshot pg_snapshot,                  -- of the plan: a change that it sees is covered, see the sweeper
  add column external_id      text,                         -- their id in the frozen write, as far as it is known
  add column first_sent_at    timestamptz,                  -- of the frozen bytes: an idempotency key does not live for ever
  add column resolve          text check (resolve in ('search', 'check')),  -- UNKNOWN: how to find out what they did
  add column resolve_token    text,                         -- what their 202 told us to ask for
  add column resolve_tries    smallint not null default 0,
  add column event_done       bigint not null default 0,    -- ordered log: the last push_event they confirmed
  add column event_claimed    bigint,
  add column counted_at       timestamptz,                  -- when the mass-change guard last counted this record
  add column hold_id          bigint;                       -- HELD by this mass_hold

drop index sync.push_intent_ready;
create index push_intent_ready on sync.push_intent (org_id, connection, priority, not_before)
  where state in ('PENDING', 'RETRY', 'UNKNOWN');

create table sync.push_wait (
  waits_for     text not null,                            -- entity whose link is missing
  entity_id     text not null,                            -- the root that waits
  connection    text not null,
  external_type text not null,
  org_id        text not null,
  field         text not null,
  required      boolean not null,                         -- false: it was sent without, and is sent once more with it
  reason        text not null,                            -- waiting, or why the other will not come: parent_not_synced …
  primary key (waits_for, entity_id, connection, external_type, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index push_wait_entity on sync.push_wait (entity_id, connection, external_type, org_id);
comment on table sync.push_wait is 'Who waits for whose link; released by the link.';

create table sync.breaker (
  org_id      text not null,
  connection  text not null,
  slot        integer not null,                           -- the worker; each finds out for itself
  failures    integer not null,
  opened_at   timestamptz not null,
  code        text not null,
  cause       text not null,
  primary key (org_id, connection, slot),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
comment on table sync.breaker is 'Lanes whose system does not answer; a row goes when it does again.';

create table sync.change_window (
  org_id      text not null,
  connection  text not null,
  entity_type text not null,
  kind        text not null check (kind in ('deletes', 'updates')),
  started_at  timestamptz not null,
  records     bigint not null,
  primary key (org_id, connection, entity_type, kind, started_at),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
comment on table sync.change_window is 'Records changed over there per 10 minutes: what the mass-change guard learns from.';

create table sync.mass_hold (
  id          bigint generated always as identity primary key,
  org_id      text not null,
  connection  text not null,
  entity_type text not null,
  kind        text not null check (kind in ('deletes', 'updates')),
  state       text not null default 'open' check (state in ('open', 'approved', 'dropped')),
  bound       bigint not null,
  opened_at   timestamptz not null,
  closed_at   timestamptz,
  closed_by   text,
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create unique index mass_hold_open on sync.mass_hold (org_id, connection, entity_type, kind) where state = 'open';
create index push_intent_held on sync.push_intent (hold_id) where state = 'HELD' and hold_id is not null;
comment on table sync.mass_hold is 'More changes than the guard lets through: they wait for one decision of a person.';
