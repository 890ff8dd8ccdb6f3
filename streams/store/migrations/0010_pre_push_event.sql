-- The ordered log of event-like entity types (`every_change` in the model): every version is delivered, none coalesced.
-- `syncline migrate` hangs the trigger on the tables of these types.

create table sync.push_event (
  entity_id   text not null,
  org_id      text not null,
  id          bigint generated always as identity,        -- rises with the versions of an entity: writers of a row wait for each other
  entity_type text not null,
  sync_key    text not null,
  op          text not null check (op in ('create', 'update', 'delete')),
  version     bigint not null,
  origin      text not null,
  modified_at timestamptz not null,
  row         jsonb not null,                             -- of a delete: as it was
  recorded_at timestamptz not null default statement_timestamp(),
  -- No index on id alone: for "the next one" the planner would walk it through the events of all others.
  primary key (entity_id, org_id, id)
);
create index push_event_recorded on sync.push_event (recorded_at);
comment on table sync.push_event is
  'Every version of the rows of event-like types, in full: personal data, not captured. See sync.forget_push_events.';

-- After each insert, update and delete. Definer's rights, since nobody else may write the log; the origin of a delete is
-- found as in sync.leave_tombstone. What is set makes rows look the same whoever wrote them.
create function sync.record_event() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC'
set bytea_output = 'hex'
set extra_float_digits = 1
as $$
declare
  entity constant text := tg_table_name;
  writer constant text := coalesce(nullif(current_setting('role'), 'none'), session_user::text);
  given  record;   -- the row as it is now
begin
  if tg_op = 'DELETE' then
    insert into sync.push_event (entity_id, org_id, entity_type, sync_key, op, version, origin, modified_at, row)
    values (
      old.id, old.org_id, entity, old.sync_key, 'delete', old.version + 1,
      case writer
        when 'syncline_applier' then coalesce(nullif(current_setting('syncline.origin', true), ''), 'local')
        when 'syncline_bulk' then 'bulk'
        else 'local'
      end,
      statement_timestamp(), to_jsonb(old));
    return null;
  end if;

  given := new;
  if tg_op = 'UPDATE' then
    -- Not counting what canon.stamp keeps: a touch is no event.
    new.version := old.version;
    new.changed_xid := old.changed_xid;
    new.sync_key := old.sync_key;
    new.updated_at := old.updated_at;
    new.modified_at := old.modified_at;
    new.origin := old.origin;
    new.origin_event := old.origin_event;
    if new is not distinct from old then
      return null;
    end if;
  end if;
  insert into sync.push_event (entity_id, org_id, entity_type, sync_key, op, version, origin, modified_at, row)
  values (
    given.id, given.org_id, entity, given.sync_key, case tg_op when 'INSERT' then 'create' else 'update' end,
    given.version, given.origin, given.modified_at, to_jsonb(given));
  return null;
end $$;
revoke execute on function sync.record_event() from public;
comment on function sync.record_event() is 'Writes the ordered log of an event-like entity type.';

-- Removes up to `most` events recorded before `before` that every connection has passed, or has brought itself. The newest
-- event of a living entity stays: it is what a connection that comes later gets first. Of a deleted entity the delete goes
-- last, so that nobody takes what was before it for the present. Definer, because the workers do not write the log.
create function sync.forget_push_events(before timestamptz, most integer) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  forgotten bigint;
begin
  with passed as (
    select e.entity_id, e.org_id, e.id from sync.push_event e
    where e.recorded_at < before
      and not exists (
        select from sync.push_intent p join sync.connection c on c.org_id = p.org_id and c.name = p.connection
        where p.entity_id = e.entity_id and p.org_id = e.org_id and p.event_done < e.id
          and p.connection <> e.origin and c.state <> 'disconnected')
      and case e.op
        when 'delete' then not exists (
          select from sync.push_event o where o.entity_id = e.entity_id and o.org_id = e.org_id and o.id < e.id)
        else exists (
          select from sync.push_event n where n.entity_id = e.entity_id and n.org_id = e.org_id and n.id > e.id)
      end
    order by e.recorded_at limit most)
  delete from sync.push_event e using passed p
  where e.entity_id = p.entity_id and e.org_id = p.org_id and e.id = p.id;
  get diagnostics forgotten = row_count;
  return forgotten;
end $$;
revoke execute on function sync.forget_push_events(timestamptz, integer) from public;
grant execute on function sync.forget_push_events(timestamptz, integer) to syncline_app;
comment on function sync.forget_push_events(timestamptz, integer) is 'Removes old events that every connection has passed.';
