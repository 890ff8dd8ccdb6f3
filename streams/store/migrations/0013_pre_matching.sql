-- Keys by which a record of theirs is found among our entities: one function for each way to normalise, so that what is
-- indexed and what is asked for are the same. NULL is no key: what people type into a field that they must fill in.

create function canon.match_email(value text) returns text language sql immutable parallel safe as
$$ select case when value ~ '^\s*[^\s@]+@[^\s@]+\s*$' then left(lower(regexp_replace(normalize(value, NFKC), '\s', '', 'g')), 320) end $$;

create function canon.match_phone(value text) returns text language sql immutable parallel safe as
$$ select case when value ~ '[0-9]([^0-9]*[0-9]){6}' then left(regexp_replace(value, '[^0-9]', '', 'g'), 320) end $$;

create function canon.match_id(value text) returns text language sql immutable parallel safe as
$$ select case when length(value) between 4 and 1000 and value ~ '[0-9]' and value !~ '^[\s./-]*([^\s./-])([\s./-]|\1)*$'
     then left(upper(regexp_replace(normalize(value, NFKC), '[\s./-]', '', 'g')), 320) end $$;

comment on function canon.match_email(text) is 'An e-mail address as it is compared; NULL when it is none.';
comment on function canon.match_phone(text) is 'The digits of a phone number; NULL for fewer than seven.';
comment on function canon.match_id(text) is 'An identifier without spaces and punctuation; NULL for 0, n/a, 0000000 and the like.';

-- What a type that is not live yet has told: the newest event of each record, applied when the gate opens.

create table sync.staged_record (
  external_id   text not null,
  external_type text not null,
  connection    text not null,
  org_id        text not null,
  entity_type   text not null,
  event_id      bytea not null,
  value         bytea not null,                         -- the record of inbound.events
  position      text,
  occurred_at   timestamptz not null,
  received_at   timestamptz not null,
  staged_at     timestamptz not null,
  primary key (external_id, external_type, connection, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index staged_record_next on sync.staged_record (connection, org_id, entity_type, received_at, external_id);
comment on table sync.staged_record is 'The newest event of records whose type is not live yet.';

-- Records that they merged into others: an old id stands for the one that is left, for ever.

create table sync.link_alias (
  external_id   text not null,                          -- the old id
  external_type text not null,
  connection    text not null,
  org_id        text not null,
  into_id       text not null,                          -- the id that is left; never an old one itself
  entity_id     text,                                   -- what the old id was linked with, where both were: not to be made there again
  merged_at     timestamptz not null,                   -- their time
  event_id      bytea not null,
  primary key (external_id, external_type, connection, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
);
create index link_alias_into on sync.link_alias (into_id, external_type, connection, org_id);
create index link_alias_entity on sync.link_alias (entity_id, connection, org_id) where entity_id is not null;
comment on table sync.link_alias is 'Old ids of records that they merged, and the ids that are left.';
