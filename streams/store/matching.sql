-- Records without a link are matched. Batches come as one JSON parameter.

-- keys --
-- What the values are compared by; those that are no keys are missing from the answer.
select k.id, k.rule, k.key
from (select w.id, w.rule, case w.kind when 'email' then canon.match_email(w.value) when 'phone' then canon.match_phone(w.value)
        else canon.match_id(w.value) end as key
      from json_to_recordset(%(rows)s::json) as w(id text, rule text, kind text, value text)) k
where k.key is not null

-- lock --
-- Whoever else is about to make an entity with one of these keys comes after us, and finds ours.
select pg_advisory_xact_lock(k.lock)
from (select distinct hashtextextended(%(org)s || '/' || w.rule || '/' || w.key, 0) as lock
      from json_to_recordset(%(rows)s::json) as w(rule text, key text) order by 1) k

-- answers --
-- What a person decided about these records, and when that was said over there which they decided about.
select distinct on (v.subject) v.subject, v.entity_id, (v.detail ->> 'occurred_at')::timestamptz
from sync.review v
where v.org_id = %(org)s and v.connection = %(connection)s and v.subject = any(%(ids)s) and v.decision is not null
  and v.kind = 'match' and v.detail ->> 'external_type' = %(type)s
order by v.subject, v.decided_at desc, v.id desc

-- answered --
-- Kept events about which a person has decided, of connections that take them.
select v.id, v.value, v.detail ->> 'position'
from sync.review v join sync.connection c on c.org_id = v.org_id and c.name = v.connection
where v.decision is not null and v.closed_at is null and c.state <> 'disconnected' and c.gates ? v.entity_type
order by v.decided_at, v.id limit %(limit)s
for update of v skip locked

-- any_answered --
select exists (select from sync.review v join sync.connection c on c.org_id = v.org_id and c.name = v.connection
  where v.decision is not null and v.closed_at is null and c.state <> 'disconnected' and c.gates ? v.entity_type)

-- take_up --
-- From here on the events are like any that nobody has applied yet.
with closed as (
  update sync.review set closed_at = %(now)s, closed_by = decided_by where id = any(%(ids)s))
delete from sync.applied_event where event_id = any(%(events)s) and decision = 'parked'

-- linked --
-- Which of these entities are other records of theirs already.
select l.entity_id, l.external_id
from sync.external_link l
where l.org_id = %(org)s and l.connection = %(connection)s and l.external_type = %(type)s and l.entity_type = %(entity_type)s
  and l.entity_id = any(%(ids)s) and l.deleted_at is null
