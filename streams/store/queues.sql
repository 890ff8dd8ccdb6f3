-- What a person does to single wishes and letters: retry, drop, redrive, approve. A write that is thawed is built anew
-- from the row as it is then, so no act ever sends an older state over a newer one.

-- parked --
select connection, external_type, entity_type, entity_id from sync.push_intent
where org_id = %(org)s and entity_id = %(entity)s and state = 'PARKED'
  and (%(connection)s::text is null or connection = %(connection)s)
order by connection, external_type for update

-- unpark --
update sync.push_intent set state = 'PENDING', wanted_seq = wanted_seq + 1, reason = %(reason)s, priority = 0,
  not_before = %(now)s, planned_at = %(now)s, attempt = 0, first_failed_at = null, first_sent_at = null, body = null,
  sent = null, resolve = null, resolve_token = null, resolve_tries = 0, error_code = null, error_cause = null
where org_id = %(org)s and entity_id = %(entity)s and connection = %(connection)s and state = 'PARKED'

-- drop_wish --
-- They go without it. Of an event-like type (event_claimed) that one version is passed over, and the later ones go on.
update sync.push_intent set
  state = case when event_claimed is null then 'DONE' else 'PENDING' end,
  done_seq = case when event_claimed is null then wanted_seq else done_seq end,
  event_done = greatest(event_done, coalesce(event_claimed, 0)), event_claimed = null,
  not_before = %(now)s, attempt = 0, first_failed_at = null, first_sent_at = null, body = null, sent = null,
  resolve = null, resolve_token = null, resolve_tries = 0, error_code = 'dropped_by_person', error_cause = null
where org_id = %(org)s and entity_id = %(entity)s and connection = %(connection)s and external_type = %(external_type)s
  and state = %(state)s

-- decide_hold --
-- Also one that was decided the same way before: what was about to be held at that moment follows.
update sync.mass_hold set state = %(decision)s, closed_at = coalesce(closed_at, %(now)s),
  closed_by = coalesce(closed_by, %(actor)s)
where id = %(id)s and org_id = %(org)s and state in ('open', %(decision)s)
returning connection, entity_type, kind

-- hold_state --
select state from sync.mass_hold where id = %(id)s and org_id = %(org)s

-- approve_held --
-- They keep the number of their hold, which is why the guard does not count them again.
update sync.push_intent set state = 'PENDING', reason = 'approved', not_before = %(now)s, counted_at = %(now)s,
  error_code = null, error_cause = null
where hold_id = %(id)s and state = 'HELD' and org_id = %(org)s

-- drop_held --
update sync.push_intent set state = 'DONE', done_seq = wanted_seq, hold_id = null, body = null, sent = null,
  error_code = 'mass_change_dropped', error_cause = null
where hold_id = %(id)s and state = 'HELD' and org_id = %(org)s

-- held_events --
select count(distinct external_id) as records from sync.held_event where hold_id = %(id)s and org_id = %(org)s

-- letters --
-- Open dead letters in the order in which they came, after the one that was seen last.
select id, org_id, connection, source, record_key, position, code, value
from sync.dead_letter
where state = 'open' and (org_id = %(org)s or org_id is null) and id > %(after)s and id <= %(last)s
  and (%(id)s::bigint is null or id = %(id)s)
  and (%(connection)s::text is null or connection = %(connection)s)
  and (%(code)s::text is null or code = %(code)s)
  and (%(source)s::text is null or source = %(source)s)
order by id limit %(limit)s for update

-- count_letters --
select source, count(*) as count, max(id) as last from sync.dead_letter
where state = 'open' and (org_id = %(org)s or org_id is null)
  and (%(connection)s::text is null or connection = %(connection)s)
  and (%(code)s::text is null or code = %(code)s)
  and (%(source)s::text is null or source = %(source)s)
group by 1 order by 1

-- intents_of_letters --
-- The wishes that these letters of pushes are about.
select d.id, p.connection, p.external_type, p.entity_type, p.entity_id
from sync.dead_letter d
join sync.push_intent p on p.entity_id = d.record_key and p.connection = d.connection and p.org_id = d.org_id
  and d.position = p.org_id || '/' || p.connection || '/' || p.external_type || '/' || p.entity_id
where d.id = any(%(ids)s)

-- close_letters --
update sync.dead_letter set state = %(state)s, closed_at = %(now)s where id = any(%(ids)s) and state = 'open'

-- close_reviews --
update sync.review set closed_at = %(now)s
where org_id = %(org)s and connection = %(connection)s and kind = 'unlinked' and subject = any(%(ids)s)
  and closed_at is null

-- states --
select entity_id, state from sync.push_intent
where org_id = %(org)s and connection = %(connection)s and external_type = %(external_type)s and entity_id = any(%(ids)s)

-- links --
-- What is in the way of a new link between these two, or is that link already.
select external_id, entity_id from sync.external_link
where org_id = %(org)s and connection = %(connection)s and external_type = %(external_type)s and deleted_at is null
  and part = '' and (external_id = %(external_id)s or entity_id = %(entity)s and entity_type = %(type)s)
for update

-- link --
-- Also a record of theirs that was seen and not matched yet.
insert into sync.external_link as l (org_id, connection, external_type, external_id, entity_type, entity_id, sync_key, made_by)
values (%(org)s, %(connection)s, %(external_type)s, %(external_id)s, %(type)s, %(entity)s, %(org)s || '/' || %(entity)s, 'person')
on conflict (external_id, connection, external_type, org_id, part) where deleted_at is null do update set
  entity_type = excluded.entity_type, entity_id = excluded.entity_id, sync_key = excluded.sync_key, made_by = 'person'
