-- Keys of programs; only their hashes are here.

-- add --
insert into sync.api_key (hash, org_id, name, connection, created_by, created_at)
values (%(hash)s, %(org)s, %(name)s, %(connection)s, %(by)s, %(now)s)

-- listed --
select name, connection, scopes, created_by, created_at, used_at, revoked_at
from sync.api_key where org_id = %(org)s order by created_at, name

-- revoke --
update sync.api_key set revoked_at = coalesce(revoked_at, %(now)s) where org_id = %(org)s and name = %(name)s

-- holder --
select org_id, connection, name, scopes, used_at from sync.api_key where hash = %(hash)s and revoked_at is null

-- used --
update sync.api_key set used_at = %(now)s where hash = %(hash)s
