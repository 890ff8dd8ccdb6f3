-- Review items: what a rule of the user's tables refused, what has no partner, what only a person can match.

-- list --
-- Without the record itself, which is personal data.
select id, connection, kind, entity_type, subject, detail - 'payload' as detail, created_at, decision, entity_id,
       decided_at, decided_by, closed_at, closed_by, note, value is not null as can_retry
from sync.review
where org_id = %(org)s and (%(connection)s::text is null or connection = %(connection)s)
  and (%(kind)s::text is null or kind = %(kind)s) and (%(all)s or closed_at is null and decision is null)
  and (%(before)s::bigint is null or id < %(before)s) and (%(id)s::bigint is null or id = %(id)s)
order by id desc limit %(limit)s

-- payload --
select detail -> 'payload' as payload from sync.review where id = %(id)s and org_id = %(org)s

-- lock --
select kind, connection, entity_type, subject, detail ->> 'external_type' as external_type, value, decision, decided_by, closed_at, closed_by
from sync.review where id = %(id)s and org_id = %(org)s for update

-- decide --
update sync.review set decision = %(decision)s, entity_id = %(entity)s, decided_at = %(now)s, decided_by = %(actor)s, note = %(note)s
where id = %(id)s

-- close --
update sync.review set closed_at = %(now)s, closed_by = %(actor)s, note = %(note)s where id = %(id)s
