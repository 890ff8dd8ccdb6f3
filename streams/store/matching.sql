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

-- linked --
-- Which of these entities are other records of theirs already.
select l.entity_id, l.external_id
from sync.external_link l
where l.org_id = %(org)s and l.connection = %(connection)s and l.external_type = %(type)s and l.entity_type = %(entity_type)s
  and l.entity_id = any(%(ids)s) and l.deleted_at is null
