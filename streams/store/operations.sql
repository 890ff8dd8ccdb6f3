-- What a person who runs Syncline asks for: counts, ages, dead letters. Read only, but for the audit.

-- intents --
select connection, state, count(*) as count from sync.push_intent where org_id = %(org)s group by 1, 2 order by 1, 2

-- oldest_waiting --
-- Age of the oldest change that a connection does not have yet.
select connection, extract(epoch from %(now)s - min(coalesce(committed_at, planned_at)))::float8 as seconds
from sync.push_intent where org_id = %(org)s and state not in ('DONE', 'DEAD') group by 1

-- dead_letter_counts --
select coalesce(connection, '') as connection, count(*) as count from sync.dead_letter
where state = 'open' and (org_id = %(org)s or org_id is null) group by 1

-- conflict_counts --
select connection, count(*) as count from sync.conflict where org_id = %(org)s and resolved_at is null group by 1

-- review_counts --
select connection, count(*) as count from sync.review where org_id = %(org)s and closed_at is null group by 1

-- polls --
select connection, external_type, fetched_through, applied_through, polled_at, failures, last_error from sync.checkpoint
where org_id = %(org)s order by 1, 2

-- progress --
select consumer, topic, partition, next_offset from sync.progress order by 1, 2, 3

-- dead_letters --
-- Those without an organisation are records that could not be read far enough to know one.
select id, org_id, connection, source, record_key, position, code, cause, state, created_at, closed_at,
       octet_length(value) as bytes
from sync.dead_letter
where (org_id = %(org)s or org_id is null) and (%(connection)s::text is null or connection = %(connection)s)
  and (%(all)s or state = 'open')
order by id desc limit %(limit)s

-- dead_letter --
select id, org_id, connection, source, record_key, headers, position, code, cause, state, created_at, closed_at,
       octet_length(value) as bytes
from sync.dead_letter where id = %(id)s and (org_id = %(org)s or org_id is null)

-- dead_letter_value --
select value from sync.dead_letter where id = %(id)s and (org_id = %(org)s or org_id is null)
