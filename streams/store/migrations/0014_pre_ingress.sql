-- Other ways in: keys with which programs bring events themselves, and the webhook subscriptions that we keep at systems.

create table sync.api_key (
  hash         bytea primary key,                       -- SHA-256 of the key; the key itself is shown once and not kept
  org_id       text not null,
  name         text not null check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  connection   text,                                    -- null: for all connections of the organisation
  scopes       text[] not null default '{events}',
  created_by   text not null,
  created_at   timestamptz not null,
  used_at      timestamptz,                             -- to the minute
  revoked_at   timestamptz,
  unique (name, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
);

create table sync.subscription (
  connection   text not null,
  org_id       text not null,
  external_id  text,                                    -- their id of it; null while there is none
  secret_name  text,                                    -- the credential they sign with
  state        text not null default 'wanted' check (state in ('wanted', 'active', 'failing', 'no_public_url', 'leaving')),
  cause        text,
  failures     integer not null default 0,
  activations  integer not null default 0,              -- how often it was made, again after they had stopped
  since        timestamptz not null,                    -- of the state
  looked_at    timestamptz,
  due_at       timestamptz not null,
  primary key (connection, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index subscription_due on sync.subscription (due_at);
