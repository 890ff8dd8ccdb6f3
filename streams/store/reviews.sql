-- Review items: what a rule of the user's tables refused, what has no partner, what only a person can match.

-- list --
-- What is due first; without the record itself, which is personal data. `after`: the last one of the page before.
select v.id, v.connection, v.kind, v.entity_type, v.subject, v.detail - 'payload' as detail, v.created_at, d.due_at,
       v.closed_at is null and v.decision is null and d.due_at < %(now)s as overdue, v.owner, v.decision, v.entity_id,
       v.decided_at, v.decided_by, v.closed_at, v.closed_by, v.note, v.value is not null as can_retry
from sync.review v
left join sync.connection c on c.org_id = v.org_id and c.name = v.connection
cross join lateral (select sync.due_at(v.created_at, c.review_within_s) as due_at) d
where v.org_id = %(org)s and (%(connection)s::text is null or v.connection = %(connection)s)
  and (%(kind)s::text is null or v.kind = %(kind)s) and (%(all)s or v.closed_at is null and v.decision is null)
  and (%(id)s::bigint is null or v.id = %(id)s)
  and (%(after)s::bigint is null or (d.due_at, v.id) > (
    select sync.due_at(p.created_at, q.review_within_s), p.id
    from sync.review p left join sync.connection q on q.org_id = p.org_id and q.name = p.connection
    where p.id = %(after)s and p.org_id = %(org)s))
order by d.due_at, v.id limit %(limit)s

-- give --
update sync.review set owner = %(owner)s where id = %(id)s

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
