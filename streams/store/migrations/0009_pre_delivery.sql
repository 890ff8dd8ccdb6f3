-- Deliveries by day, so that the old ones go by dropping a table; what each of them changed; and counts of routes and of
-- deliveries that outlive the rows they count.

alter table sync.delivery rename to delivery_unparted;
alter index sync.delivery_entity rename to delivery_unparted_entity;

create table sync.delivery (
  id            bigint generated always as identity,
  org_id        text not null,
  connection    text not null,
  external_type text not null,
  entity_type   text not null,
  entity_id     text not null,
  sync_key      text not null default '',
  external_id   text,
  op            text not null,
  outcome       text not null,                          -- delivered, or the error's code
  status        integer,
  cause         text,                                   -- their words; not captured
  reason        text not null default '',               -- why it was wanted: change, push_all, correct_remote, link …
  changed       text[] not null default '{}',
  before        jsonb,                                  -- the document they held, as far as we knew; not captured
  delta         jsonb,                                  -- what the write changed of it, see rules.deltas; not captured
  bytes         integer not null default 0,             -- of the request's body
  attempt       integer not null,
  idem_key      text not null,
  seq           bigint not null,
  committed_at  timestamptz,                            -- the hops: COMMIT, planned, claimed, sent, answered
  planned_at    timestamptz,
  claimed_at    timestamptz,
  sent_at       timestamptz,
  answered_at   timestamptz,
  recorded_at   timestamptz not null,
  constraint delivery_identity primary key (id, recorded_at)
) partition by range (recorded_at);
create index delivery_entity on sync.delivery (entity_id, org_id, recorded_at);
alter table sync.delivery replica identity using index delivery_identity;
comment on table sync.delivery is
  'Every call to fulfil an intent, with its outcome, and what it changed: `before` and `delta` are personal data and go with their day. '
  'Captured, without these two and `cause`, as the outbox of the topic outbound.outcomes: rows are only ever inserted.';

create table sync.delivery_rest partition of sync.delivery default;
comment on table sync.delivery_rest is 'For days that have no partition, so that nothing is ever refused.';

insert into sync.delivery (id, org_id, connection, external_type, entity_type, entity_id, sync_key, external_id, op, outcome, status, cause,
  changed, attempt, idem_key, seq, committed_at, planned_at, claimed_at, sent_at, answered_at, recorded_at)
overriding system value
select id, org_id, connection, external_type, entity_type, entity_id, org_id || '/' || entity_id, external_id, op, outcome, status, cause,
  changed, attempt, idem_key, seq, committed_at, planned_at, claimed_at, sent_at, answered_at, recorded_at
from sync.delivery_unparted;
select setval(pg_get_serial_sequence('sync.delivery', 'id'), (select max(id) from sync.delivery_unparted))
where exists (select from sync.delivery_unparted);
drop table sync.delivery_unparted;

-- Makes the partitions of `today` and of the days after it, and drops those that ended more than `kept` days ago; days are
-- those of UTC. Definer, because the workers own nothing. A day that has rows in the default partition already gets none:
-- moving them would publish them once more.
create function sync.keep_deliveries(today date, ahead integer, kept integer) returns table (made integer, dropped integer)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
declare
  day  date;
  name text;
  low  timestamptz;
begin
  made := 0;
  dropped := 0;
  if ahead not between 0 and 60 or kept < 1 then
    raise exception 'keep_deliveries: between 0 and 60 days ahead, and at least 1 day kept';
  end if;
  perform pg_advisory_xact_lock(7310051954885);
  for day in select generate_series(today, today + ahead, interval '1 day')::date loop
    name := 'delivery_' || to_char(day, 'YYYYMMDD');
    low := day::timestamp at time zone 'UTC';
    continue when to_regclass('sync.' || name) is not null
      or exists (select from sync.delivery_rest r where r.recorded_at >= low and r.recorded_at < low + interval '24 hours');
    -- Attaching locks the parent less than `partition of` would: deliveries go on being recorded.
    execute format('create table sync.%I (like sync.delivery including all excluding identity)', name);
    execute format('alter table sync.delivery attach partition sync.%I for values from (%L) to (%L)', name, low, low + interval '24 hours');
    made := made + 1;
  end loop;
  for name in
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'sync.delivery'::regclass and c.relname ~ '^delivery_[0-9]{8}$'
      and to_date(substr(c.relname, 10), 'YYYYMMDD') < today - kept
    order by 1
  loop
    execute format('drop table sync.%I', name);
    dropped := dropped + 1;
  end loop;
  delete from sync.delivery_rest r where r.recorded_at < (today - kept)::timestamp at time zone 'UTC';
  return next;
end $$;
revoke execute on function sync.keep_deliveries(date, integer, integer) from public;
grant execute on function sync.keep_deliveries(date, integer, integer) to syncline_app;
select sync.keep_deliveries(current_date, 7, 3650);

-- Both counted in the transaction of what they count, by one row per batch and key. Days older than a year are one row.
create table sync.delivery_count (
  connection    text not null,
  entity_type   text not null,
  outcome       text not null,
  day           date not null,
  org_id        text not null,
  calls         bigint not null,
  retries       bigint not null,                        -- calls that were not the first of their write
  bytes         bigint not null,
  seconds       double precision not null,              -- from sent to answered
  primary key (connection, entity_type, outcome, day, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
) with (fillfactor = 50);
comment on table sync.delivery_count is 'Deliveries by outcome and UTC day; outlives sync.delivery.';

create table sync.route_count (
  connection  text not null,
  entity_type text not null,
  verdict     text not null,                            -- push, hold, review, skip; seen: what the planner looked at
  reason      text not null,
  day         date not null,
  org_id      text not null,
  roots       bigint not null,
  primary key (connection, entity_type, verdict, reason, day, org_id),
  foreign key (org_id, connection) references sync.connection on delete cascade
) with (fillfactor = 50);
comment on table sync.route_count is 'Where every committed change went, per UTC day: seen = planned + excluded, or a change was lost between the two.';

-- The states an intent may stay in; those of the hot path have indexes of their own.
create index push_intent_waiting on sync.push_intent (org_id, connection, external_type) where state in ('HELD', 'WAITING', 'PARKED', 'DEAD');
create index dead_letter_open on sync.dead_letter (org_id, connection, source) where state = 'open';
