-- What keeps the bookkeeping of canonical rows, whoever writes them. `syncline migrate` hangs these functions on every
-- canonical table, named zzz_… so that they run after the user's own triggers, and ENABLE ALWAYS so that a replica or a
-- restore cannot pass them by.

-- Before each insert or update. Runs with the rights of the writer: a definer's current_user would be the owner.
-- Its argument, if any, is the column that points at the root which the entity is part of.
create function canon.stamp() returns trigger
language plpgsql
as $$
declare
  applier  constant boolean := current_user = 'syncline_applier';
  entity   constant text := tg_table_name;
  given    record;   -- the row as the statement wants it
  tagged   boolean;  -- the applier says, in this very statement, which event this is
  changed  boolean;  -- not counting the columns that are kept here
begin
  given := new;
  if tg_op = 'INSERT' then
    changed := true;
    tagged := applier and given.origin_event is not null;
    -- A row that comes back goes on from its tombstone, so that versions of one id only ever rise.
    new.version := 1 + coalesce((
      select max(t.version) from sync.tombstone t
      where t.org_id = given.org_id and t.entity_type = entity and t.id = given.id), 0);
  else
    if (given.org_id, given.id) is distinct from (old.org_id, old.id) then
      raise exception 'org_id and id of canon.% % never change', tg_table_name, old.id
        using errcode = 'restrict_violation',
              hint = 'Insert a new row and delete this one, or merge the two.';
    end if;
    new.version := old.version;
    new.changed_xid := old.changed_xid;
    new.sync_key := old.sync_key;
    new.updated_at := old.updated_at;
    new.modified_at := old.modified_at;
    new.origin := old.origin;
    new.origin_event := old.origin_event;
    changed := new is distinct from old;
    tagged := applier and given.origin_event is distinct from old.origin_event and given.origin_event is not null;
    new.version := old.version + 1;
  end if;

  -- Forgetting the tag costs an extra push; keeping an old one would lose one.
  new.origin := case
    when tagged then coalesce(given.origin, 'local')
    when current_user = 'syncline_bulk' then 'bulk'
    else 'local'
  end;
  new.origin_event := case when tagged then given.origin_event end;

  new.updated_at := statement_timestamp();
  new.modified_at := case
    when tagged then coalesce(given.modified_at, statement_timestamp())
    when applier and tg_op = 'UPDATE' and given.modified_at is distinct from old.modified_at then given.modified_at
    when changed then statement_timestamp()
    else old.modified_at
  end;

  new.changed_xid := pg_current_xact_id();
  new.sync_key := given.org_id || '/' || case when tg_nargs = 0 then given.id else to_jsonb(given) ->> tg_argv[0] end;
  return new;
end $$;

-- After each delete, cascaded ones too. Definer's rights, since nobody else may write tombstones; a trigger function
-- cannot be called by hand, and without EXECUTE nobody can hang it on a table of their own.
-- In here current_user is the owner, and in a cascade it was so before: the writer is the role set, or the login.
create function sync.leave_tombstone() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  entity constant text := tg_table_name;
  writer constant text := coalesce(nullif(current_setting('role'), 'none'), session_user::text);
begin
  insert into sync.tombstone (org_id, entity_type, id, version, origin, sync_key)
  values (
    old.org_id, entity, old.id,
    1 + greatest(old.version, (
      select max(t.version) from sync.tombstone t
      where t.org_id = old.org_id and t.entity_type = entity and t.id = old.id)),
    case writer
      -- A deleted row cannot carry a tag: the applier names the connection with SET LOCAL syncline.origin.
      when 'syncline_applier' then coalesce(nullif(current_setting('syncline.origin', true), ''), 'local')
      when 'syncline_bulk' then 'bulk'
      else 'local'
    end,
    old.sync_key);
  return null;
end $$;
revoke execute on function sync.leave_tombstone() from public;

create function canon.refuse_truncate() returns trigger
language plpgsql
as $$
begin
  raise exception 'TRUNCATE of canon.% is refused: the other systems would never hear of it', tg_table_name
    using errcode = 'restrict_violation',
          hint = 'Use DELETE, which leaves a tombstone for every row; as a member of syncline_bulk when nothing shall be pushed.';
end $$;

comment on function canon.stamp() is 'Keeps version, origin, changed_xid, sync_key, updated_at and modified_at of a canonical row.';
comment on function sync.leave_tombstone() is 'Writes the tombstone of a hard delete.';
comment on function canon.refuse_truncate() is 'Refuses TRUNCATE, which no capture sees.';
