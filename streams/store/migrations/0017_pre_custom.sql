-- Custom fields are the business of one connection: a version of an event-like row that only an event of theirs changed in
-- them is no version for the others. What a user writes into the column is.
create or replace function sync.record_event() returns trigger
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
    new.field_times := old.field_times;
    if given.origin_event is not null then
      new.custom := old.custom;
    end if;
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
