-- Records that are to be read in full. Batches come as one JSON parameter.

-- want --
-- A read that is under way was perhaps too early: it does not count for this event. One that failed, or found nothing,
-- keeps its time.
insert into sync.fetch_intent as f (external_id, external_type, connection, org_id, reason, polled_from, wanted_at, not_before)
select r.external_id, r.external_type, r.connection, r.org_id, r.reason, r.polled_from, %(now)s, %(now)s
from json_to_recordset(%(rows)s::json) as r(external_id text, external_type text, connection text, org_id text, reason text,
  polled_from timestamptz)
order by r.external_id, r.external_type, r.connection, r.org_id
on conflict (external_id, external_type, connection, org_id) do update set
  wanted_seq = f.wanted_seq + 1, wanted_at = excluded.wanted_at, reason = excluded.reason,
  polled_from = least(case when f.wanted_seq > f.done_seq then f.polled_from end, excluded.polled_from),
  not_before = case when f.wanted_seq > f.done_seq then f.not_before else excluded.not_before end,
  error_code = case when f.wanted_seq > f.done_seq then f.error_code end,
  error_cause = case when f.wanted_seq > f.done_seq then f.error_cause end

-- due_connections --
select c.org_id, c.name from sync.connection c
where c.state = 'active' and exists (
  select from sync.fetch_intent f where f.connection = c.name and f.org_id = c.org_id and f.wanted_seq > f.done_seq
    and f.not_before <= %(now)s and coalesce(f.lease_until, '-infinity') <= %(now)s)

-- pending --
-- How many reads of each type a poll that begins now would spare, and how the last poll went.
select f.external_type, count(*), c.polled_at, coalesce(c.failures, 0)
from sync.fetch_intent f
left join sync.checkpoint c on c.org_id = f.org_id and c.connection = f.connection and c.external_type = f.external_type
where f.connection = %(connection)s and f.org_id = %(org)s and f.wanted_seq > f.done_seq
  and f.missed_at is null and f.reason <> 'missing' and f.wanted_at > coalesce(c.polled_at, '-infinity')
group by f.external_type, c.polled_at, c.failures

-- claim --
-- Those of the types that a poll is about to read are left to it.
with due as (
  select f.external_id, f.external_type, f.connection, f.org_id from sync.fetch_intent f
  where f.connection = %(connection)s and f.org_id = %(org)s and f.wanted_seq > f.done_seq
    and f.not_before <= %(now)s and coalesce(f.lease_until, '-infinity') <= %(now)s
    and (f.external_type <> all(%(polled)s::text[]) or f.missed_at is not null or f.reason = 'missing' or exists (
      select from sync.checkpoint c where c.org_id = f.org_id and c.connection = f.connection
        and c.external_type = f.external_type and c.polled_at >= f.wanted_at))
  order by f.not_before limit %(limit)s for update of f skip locked)
update sync.fetch_intent f set lease_until = %(lease)s from due d
where f.external_id = d.external_id and f.external_type = d.external_type and f.connection = d.connection and f.org_id = d.org_id
returning f.external_type, f.external_id, f.wanted_seq, f.wanted_at, f.lease_until, f.attempt, f.first_failed_at, f.missed_at

-- settle --
-- What came of reads, each as long as nobody has taken it over. `seq` null: it is to be read again.
update sync.fetch_intent f set done_seq = greatest(f.done_seq, r.seq), lease_until = null, not_before = r.not_before,
  attempt = r.attempt, first_failed_at = r.first_failed_at, missed_at = r.missed_at, error_code = r.error_code,
  error_cause = r.error_cause
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(external_type text, external_id text, lease_until timestamptz, seq bigint,
        not_before timestamptz, attempt int, first_failed_at timestamptz, missed_at timestamptz, error_code text,
        error_cause text) offset 0) r
where f.external_id = r.external_id and f.external_type = r.external_type and f.connection = r.connection
  and f.org_id = r.org_id and f.lease_until = r.lease_until

-- known_at --
-- Their time of the newest state that we know of these records.
select l.external_type, l.external_id, s.external_updated_at
from (select *, %(org)s::text as org_id, %(connection)s::text as connection
      from json_to_recordset(%(rows)s::json) as j(external_type text, external_id text) offset 0) r
join sync.external_link l on l.external_id = r.external_id and l.connection = r.connection and l.external_type = r.external_type
  and l.org_id = r.org_id and l.part = '' and l.deleted_at is null
join sync.link_state s on s.org_id = l.org_id and s.link_id = l.id
where s.external_updated_at is not null

-- mark --
-- `applied_through` waits until what was read is applied.
insert into sync.poll_mark (org_id, connection, external_type, positions)
select %(org)s, %(connection)s, r.external_type, r.positions
from json_to_recordset(%(rows)s::json) as r(external_type text, positions jsonb)

-- brought --
-- A poll brought these records, and began after they were asked for.
update sync.fetch_intent f set done_seq = f.wanted_seq, missed_at = null, attempt = 0, first_failed_at = null,
  error_code = null, error_cause = null
from (select *, %(org)s::text as org_id, %(connection)s::text as connection, %(type)s::text as external_type
      from json_to_recordset(%(rows)s::json) as j(external_id text) offset 0) r
where f.external_id = r.external_id and f.external_type = r.external_type and f.connection = r.connection
  and f.org_id = r.org_id and f.wanted_seq > f.done_seq and f.wanted_at <= %(began)s

-- linked --
-- Their records of a type that we know, in the order of their ids.
select external_id from sync.external_link
where external_id > %(after)s and connection = %(connection)s and external_type = %(type)s and org_id = %(org)s
  and part = '' and deleted_at is null and created_at < %(began)s
order by external_id limit %(limit)s
