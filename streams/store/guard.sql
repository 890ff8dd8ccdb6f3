-- The guard against mass changes.

-- busiest --
-- Records in the busiest window that was let through, and in the current one.
select coalesce(max(records) filter (where started_at < %(window)s), 0), coalesce(max(records) filter (where started_at = %(window)s), 0)
from sync.change_window
where org_id = %(org)s and connection = %(connection)s and entity_type = %(type)s and kind = %(kind)s and started_at > %(since)s

-- count --
insert into sync.change_window as w (org_id, connection, entity_type, kind, started_at, records)
values (%(org)s, %(connection)s, %(type)s, %(kind)s, %(window)s, %(records)s)
on conflict (org_id, connection, entity_type, kind, started_at) do update set records = w.records + excluded.records
where %(bound)s::bigint is null or w.records + excluded.records <= %(bound)s
returning w.records

-- open_hold --
select id from sync.mass_hold
where org_id = %(org)s and connection = %(connection)s and entity_type = %(type)s and kind = %(kind)s and state = 'open'

-- hold --
insert into sync.mass_hold as h (org_id, connection, entity_type, kind, bound, opened_at)
values (%(org)s, %(connection)s, %(type)s, %(kind)s, %(bound)s, %(now)s)
on conflict (org_id, connection, entity_type, kind) where state = 'open' do update set bound = h.bound
returning h.id

-- forget --
delete from sync.change_window where started_at < %(since)s
