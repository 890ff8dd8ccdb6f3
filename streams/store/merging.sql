-- Merges of their records, and the old ids that are left of them.

-- one_after_the_other --
-- No record of a type gets a link while another transaction merges some of them.
select pg_advisory_xact_lock(hashtextextended('merge/' || %(org)s || '/' || %(connection)s || '/' || %(type)s, 0))

-- beside_each_other --
select pg_advisory_xact_lock_shared(hashtextextended('merge/' || %(org)s || '/' || %(connection)s || '/' || %(type)s, 0))

-- aliases --
select a.external_id, a.into_id, a.merged_at from sync.link_alias a
where a.external_id = any(%(ids)s) and a.external_type = %(type)s and a.connection = %(connection)s and a.org_id = %(org)s

-- links --
select l.external_id, l.id, l.entity_id from sync.external_link l
where l.external_id = any(%(ids)s) and l.external_type = %(type)s and l.connection = %(connection)s and l.org_id = %(org)s
  and l.part = '' and l.deleted_at is null
order by l.id for update

-- relink --
-- The items of its lists are items of the record that is left.
update sync.external_link l set
  external_id = case when l.id = %(link)s then %(into)s else l.external_id end,
  part = case when l.id = %(link)s then l.part else %(into)s end
from sync.external_link root
where root.id = %(link)s and root.org_id = %(org)s and l.org_id = %(org)s and l.connection = %(connection)s
  and l.sync_key = root.sync_key and l.deleted_at is null and (l.id = %(link)s or l.part = %(old)s)

-- forget_times --
-- The state is the old record's: of the one that is left nothing is too old to be heard. What they held is our best guess.
update sync.link_state set rev = rev + 1, external_version = null, external_updated_at = null, heard_at = null
where link_id = %(link)s and org_id = %(org)s

-- close --
update sync.external_link l set deleted_at = %(now)s
from sync.external_link root
where root.id = %(link)s and root.org_id = %(org)s and l.org_id = %(org)s and l.connection = %(connection)s
  and l.sync_key = root.sync_key and l.deleted_at is null and (l.id = %(link)s or l.part = %(old)s)

-- save --
insert into sync.link_alias as a (org_id, connection, external_type, external_id, into_id, entity_id, merged_at, event_id)
values (%(org)s, %(connection)s, %(type)s, %(old)s, %(into)s, %(entity)s, %(at)s, decode(%(event)s, 'hex'))
on conflict (external_id, external_type, connection, org_id) do update set
  into_id = excluded.into_id, entity_id = coalesce(excluded.entity_id, a.entity_id), merged_at = excluded.merged_at,
  event_id = excluded.event_id

-- shorten --
-- What was merged into the old one is part of the one that is left now.
update sync.link_alias set into_id = %(into)s
where into_id = %(old)s and external_type = %(type)s and connection = %(connection)s and org_id = %(org)s

-- settle_reviews --
-- What waited for a person because of the old record need wait no longer: there is no such record.
update sync.review set closed_at = %(now)s, note = 'merged'
where org_id = %(org)s and connection = %(connection)s and kind in ('constraint', 'match') and subject = %(old)s and closed_at is null
  and detail ->> 'external_type' = %(type)s

-- merged_entities --
-- Entities whose record was merged into that of another: they are not to be made there again.
select a.entity_id from sync.link_alias a
where a.entity_id = any(%(ids)s) and a.connection = %(connection)s and a.org_id = %(org)s
