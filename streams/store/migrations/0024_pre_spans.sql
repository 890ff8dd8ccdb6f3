-- Of a row that an event made, the columns that the event did not fill have a time, too.
--
-- An event that comes late may tell that a value was there earlier than we believed: then the times of fields change, and
-- nothing else of the row does.

alter table sync.link_state add column spans jsonb not null default '{}';
comment on column sync.link_state.spans is 'Field -> when they wrote what they hold of it, by our clock: {"after", "by"}; "" is every other field.';

create or replace function canon.stamp() returns trigger
language plpgsql
as $$
declare
  applier  constant boolean := current_user = 'syncline_applier';
  entity   constant text := tg_table_name;
  kept     constant text[] := '{org_id,id,created_at,updated_at,modified_at,field_times,custom,version,origin,origin_event,changed_xid,sync_key}';
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
    new.field_times := old.field_times;
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

  -- Of a root, when each of its columns was edited: "" stands for those that have not been since the row was new.
  if tg_op = 'UPDATE' and tg_nargs = 0
     and (changed or (tagged and given.field_times <> '{}' and given.field_times is distinct from old.field_times)) then
    new.field_times := case when old.field_times = '{}' then jsonb_build_object('', old.modified_at) else old.field_times end
      || case
           when tagged and given.field_times is distinct from old.field_times then given.field_times
           else coalesce((
             select jsonb_object_agg(n.key, new.modified_at) from (select to_jsonb(old) as before offset 0) o, jsonb_each(to_jsonb(given)) n
             where n.value is distinct from o.before -> n.key and n.key <> all (kept)), '{}')
         end;
  elsif tg_op = 'INSERT' then
    -- Columns that nobody has written yet are as old as the oldest.
    new.field_times := coalesce((
      select case when min(t.value) < max(t.value) then jsonb_build_object('', min(t.value)) || given.field_times end
      from jsonb_each_text(given.field_times) t where tagged), '{}');
  end if;

  new.changed_xid := pg_current_xact_id();
  new.sync_key := given.org_id || '/' || case when tg_nargs = 0 then given.id else to_jsonb(given) ->> tg_argv[0] end;
  return new;
end $$;

comment on function canon.stamp() is
  'Keeps version, origin, changed_xid, sync_key, updated_at, modified_at and field_times of a canonical row.';
