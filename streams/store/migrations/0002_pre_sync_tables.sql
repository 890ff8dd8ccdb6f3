-- The tables of the pipeline itself. Words as in the README: a change is ours, an event is theirs, a link ties the two.
-- Every key holds org_id; a connection is named within its organisation (the seeds' externalSystemName).
-- Keys begin with their most selective column: before the first ANALYZE the planner believes that one organisation's
-- connection has one row, and reads an index that begins with those two from end to end, for every single lookup.

create schema if not exists sync;

-- connections ------------------------------------------------------------------------------------------------------

create table sync.connection (
  org_id            text not null,
  name              text not null check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$' and name not in ('local', 'bulk')),
  system            text not null,
  url               text not null,
  auth              text,
  settings          jsonb not null default '{}',        -- plain settings only; whatever is secret is in sync.credential
  option            smallint not null default 1 check (option between 1 and 3),
  mode              text not null default 'both' check (mode in ('realtime', 'scheduled', 'both')),
  delete_policy     text not null default 'ignore' check (delete_policy in ('ignore', 'archive', 'delete')),
  conflict_policy   text not null default 'lww' check (conflict_policy in ('lww', 'lww_record', 'local', 'remote', 'manual')),
  retry_policy      text not null default 'durable' check (retry_policy in ('durable', 'seed')),
  poll_interval_s   double precision not null default 900 check (poll_interval_s > 0),
  allow_http        boolean not null default false,
  gates             jsonb not null default '{}',        -- entity type -> staging | matched | populated | live
  state             text not null default 'active' check (state in ('active', 'paused', 'disconnected')),
  state_reason      text,
  epoch             bigint not null default 1,          -- + 1 whenever something changes that decides what is sent
  created_at        timestamptz not null default now(),
  primary key (org_id, name)
);
comment on table sync.connection is 'One organisation''s account in one external system.';

create table sync.credential (
  org_id      text not null,
  connection  text not null,
  name        text not null,                            -- apiKey, password, webhook_secret/1, webhook_token …
  key_id      text not null,
  wrapped_key bytea not null,                           -- nonce + AES-256-GCM(data key), under the key-encryption key
  sealed      bytea not null,                           -- nonce + AES-256-GCM(value), under the data key
  not_after   timestamptz,
  created_at  timestamptz not null default now(),
  primary key (org_id, connection, name),
  foreign key (org_id, connection) references sync.connection on delete cascade
);

create table sync.webhook_endpoint (
  token_hash  bytea primary key,                        -- SHA-256 of the token in the path
  org_id      text not null,
  connection  text not null,
  created_at  timestamptz not null default now(),
  foreign key (org_id, connection) references sync.connection on delete cascade
);

create table sync.webhook_delivery (
  org_id      text not null,
  connection  text not null,
  delivery_id text not null,                            -- theirs, or the hash of the body
  received_at timestamptz not null default now(),
  events      integer not null,
  primary key (org_id, connection, delivery_id)
);
comment on table sync.webhook_delivery is 'Every authentic webhook, kept for ever: a replay has no effect.';

-- links --------------------------------------------------------------------------------------------------------------

create table sync.external_link (
  org_id        text not null,
  id            text not null default canon.typeid('link'),
  connection    text not null,
  external_type text not null,
  external_id   text not null,
  part          text not null default '',
  entity_type   text not null,
  entity_id     text,                                   -- null until matched
  sync_key      text not null,                          -- org/root id once matched, before: org/connection/type/external id
  link_metadata jsonb not null default '{}',            -- not captured
  made_by       text not null check (made_by in ('push', 'inbound', 'match', 'person')),
  created_at    timestamptz not null default now(),
  deleted_at    timestamptz,
  primary key (id, org_id),
  foreign key (org_id, connection) references sync.connection
);
create unique index external_link_theirs on sync.external_link (external_id, connection, external_type, org_id, part) where deleted_at is null;
create unique index external_link_ours on sync.external_link (entity_id, connection, external_type, entity_type, org_id) where deleted_at is null;
create unique index external_link_identity on sync.external_link (sync_key, org_id, id);
alter table sync.external_link replica identity using index external_link_identity;

create table sync.link_state (
  org_id              text not null,
  link_id             text not null,
  rev                 bigint not null default 1,        -- + 1 on every change: a push that read an older one commits no base
  external_version    text,
  external_updated_at timestamptz,                      -- their time of the newest state we know
  last_processed_at   timestamptz,
  pushed_hash         bytea,
  pushed_at           timestamptz,                      -- our time when the last push that they confirmed was sent
  base                jsonb not null default '{}',      -- the document they hold, as far as we know
  primary key (link_id, org_id),
  foreign key (link_id, org_id) references sync.external_link on delete cascade
);

-- outbound -----------------------------------------------------------------------------------------------------------

create table sync.push_intent (
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  entity_type   text not null,
  entity_id     text not null,                          -- the root of the aggregate
  sync_key      text not null,
  wanted_seq    bigint not null default 1,              -- + 1 on every plan
  claimed_seq   bigint not null default 0,              -- what the write in flight covers
  done_seq      bigint not null default 0,
  state         text not null default 'PENDING'
                check (state in ('PENDING', 'HELD', 'WAITING', 'SENDING', 'RETRY', 'UNKNOWN', 'DONE', 'PARKED', 'DEAD')),
  reason        text not null,                          -- why it is wanted: change, push_all, correct_remote, link …
  epoch         bigint not null default 1,
  generation    integer not null default 1,             -- + 1 after a confirmed delete over there
  fence         bigint not null default 0,              -- + 1 on every claim; a result with an older fence changes nothing
  lease_until   timestamptz,
  slot          integer,                                -- the worker that holds it
  not_before    timestamptz not null default '-infinity',
  attempt       integer not null default 0,
  first_failed_at timestamptz,
  op            text,                                   -- of the frozen write: create, update, delete
  idem_key      text,
  body          bytea,                                  -- the frozen bytes, committed before the first of them leaves
  sent          jsonb,                                  -- the document the frozen bytes carry
  changed       text[],
  link_rev      bigint,                                 -- link_state.rev the write was compared with
  error_code    text,
  error_cause   text,
  committed_at  timestamptz,                            -- commit of the oldest change not yet done
  planned_at    timestamptz,
  claimed_at    timestamptz,
  primary key (entity_id, connection, external_type, org_id),
  foreign key (org_id, connection) references sync.connection
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
create index push_intent_ready on sync.push_intent (org_id, connection, not_before) where state in ('PENDING', 'RETRY');
create index push_intent_sending on sync.push_intent (org_id, connection, lease_until) where state = 'SENDING';

create table sync.delivery (
  id            bigint generated always as identity primary key,
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  entity_type   text not null,
  entity_id     text not null,
  external_id   text,
  op            text not null,
  outcome       text not null,                          -- delivered, or the error's code
  status        integer,
  cause         text,
  changed       text[] not null default '{}',
  attempt       integer not null,
  idem_key      text not null,
  seq           bigint not null,
  committed_at  timestamptz,                            -- the hops: COMMIT, planned, claimed, sent, answered
  planned_at    timestamptz,
  claimed_at    timestamptz,
  sent_at       timestamptz,
  answered_at   timestamptz,
  recorded_at   timestamptz not null default now()
);
create index delivery_entity on sync.delivery (entity_id, org_id, recorded_at);
comment on table sync.delivery is 'Every HTTP attempt to fulfil an intent, with its outcome. Holds no personal data.';

-- inbound ------------------------------------------------------------------------------------------------------------

create table sync.applied_event (
  event_id      bytea not null primary key,             -- 16 bytes
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  external_id   text not null,
  entity_id     text,
  source        text not null,
  decision      text not null,                          -- applied, echo, stale, kept, merged, ignored, parked
  reason        text not null,
  occurred_at   timestamptz not null,
  received_at   timestamptz not null,
  applied_at    timestamptz not null default now()
) partition by hash (event_id);
do $$ begin
  for n in 0..7 loop
    execute format('create table sync.applied_event_%s partition of sync.applied_event for values with (modulus 8, remainder %s)', n, n);
  end loop;
end $$;
create index applied_event_entity on sync.applied_event (entity_id, org_id, applied_at);
comment on table sync.applied_event is 'The ledger: an event is applied once, whoever delivers it how often.';

create table sync.conflict (
  id          bigint generated always as identity primary key,
  org_id      text not null,
  connection  text not null,
  entity_type text not null,
  entity_id   text not null,
  field       text not null,
  base        jsonb,
  ours        jsonb,
  theirs      jsonb,
  event_id    bytea not null,
  opened_at   timestamptz not null default now(),
  resolved_at timestamptz,
  resolution  text
);
create unique index conflict_open on sync.conflict (entity_id, field, connection, org_id) where resolved_at is null;

create table sync.conflict_log (
  id          bigint generated always as identity primary key,
  org_id      text not null,
  connection  text not null,
  entity_type text not null,
  entity_id   text not null,
  field       text not null,
  base        jsonb,
  ours        jsonb,
  theirs      jsonb,
  winner      text not null check (winner in ('ours', 'theirs')),
  rule        text not null,                            -- last_write, higher_version, remote_on_tie, policy …
  ours_at     timestamptz,
  theirs_at   timestamptz,
  event_id    bytea not null,
  decided_at  timestamptz not null default now(),
  restored_at timestamptz
);
create index conflict_log_entity on sync.conflict_log (entity_id, org_id, decided_at);
comment on table sync.conflict_log is 'Every value that lost, with the one that won and why; any of them can be restored.';

create table sync.checkpoint (
  org_id          text not null,
  connection      text not null,
  external_type   text not null,
  fetched_through timestamptz,                          -- their time; every change up to here is durable in inbound.events
  applied_through timestamptz,                          -- their time; every change up to here is applied
  polled_at       timestamptz,
  failures        integer not null default 0,           -- in a row
  last_error      text,
  recovered       bigint not null default 0,            -- records a poll brought that no webhook had
  primary key (org_id, connection, external_type),
  foreign key (org_id, connection) references sync.connection on delete cascade
);

-- both ---------------------------------------------------------------------------------------------------------------

create table sync.progress (
  consumer    text not null,
  topic       text not null,
  partition   integer not null,
  next_offset bigint not null,
  updated_at  timestamptz not null default now(),
  primary key (consumer, topic, partition)
) with (fillfactor = 50);
comment on table sync.progress is 'Next offset to read, stored in the transaction of the effect: exactly once, whatever Kafka remembers.';

create table sync.dead_letter (
  id          bigint generated always as identity primary key,
  org_id      text,
  connection  text,
  source      text not null,                            -- cdc.…, inbound.events, push, poll
  record_key  text,
  headers     jsonb not null default '{}',
  value       bytea,
  position    text,                                     -- topic/partition/offset, or the intent's key
  code        text not null,
  cause       text not null,
  state       text not null default 'open' check (state in ('open', 'redriven', 'dropped')),
  created_at  timestamptz not null default now(),
  closed_at   timestamptz
);
create unique index dead_letter_once on sync.dead_letter (source, position) where position is not null;

create table sync.review (
  id          bigint generated always as identity primary key,
  org_id      text not null,
  connection  text not null,
  kind        text not null,                            -- constraint, unlinked
  entity_type text not null,
  subject     text not null,                            -- entity id or external id
  detail      jsonb not null default '{}',
  created_at  timestamptz not null default now(),
  closed_at   timestamptz
);
create unique index review_open on sync.review (org_id, connection, kind, subject) where closed_at is null;

create table sync.audit (
  id       bigint generated always as identity primary key,
  at       timestamptz not null default now(),
  org_id   text not null,
  actor    text not null,
  action   text not null,
  subject  text not null,
  detail   jsonb not null default '{}'
);

-- capture ------------------------------------------------------------------------------------------------------------

create table sync.tombstone (
  org_id      text not null,
  entity_type text not null,
  id          text not null,
  version     bigint not null,
  origin      text not null,
  sync_key    text not null,
  deleted_at  timestamptz not null default now(),
  primary key (org_id, entity_type, id, version)
);
create unique index tombstone_identity on sync.tombstone (sync_key, org_id, entity_type, id, version);
alter table sync.tombstone replica identity using index tombstone_identity;
comment on table sync.tombstone is 'One row for every hard delete; a row that returns goes on from its version.';

create table sync.heartbeat (id integer primary key, at timestamptz not null);
comment on table sync.heartbeat is 'Written by the connector so that its slot moves while the captured tables are idle.';
