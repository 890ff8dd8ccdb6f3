-- Statements of the outbound flow. Batches come as one JSON parameter: a tenth of the cost of arrays. Where a batch is
-- joined by key, organisation and connection are columns of the batch behind `offset 0`: as constants they would make
-- the planner believe that the table has one such row, and read all of them for every row of the batch.

-- links_of --
-- Which of these roots are linked where, or about to be by a push that a person selected: for rows the links table does
-- not answer.
select l.sync_key, l.connection from sync.external_link l
where l.sync_key = any(%(keys)s) and l.part = '' and l.deleted_at is null and l.entity_id is not null
union
select p.sync_key, p.connection from sync.push_intent p
where p.entity_id = any(%(ids)s) and p.sync_key = any(%(keys)s) and p.state not in ('DONE', 'DEAD')

-- review --
insert into sync.review (org_id, connection, kind, entity_type, subject)
select n.org_id, n.connection, 'unlinked', n.entity_type, n.entity_id
from json_to_recordset(%(rows)s::json) as n(org_id text, connection text, entity_type text, entity_id text)
order by n.org_id, n.connection, n.entity_id
on conflict (org_id, connection, kind, subject) where closed_at is null do nothing

-- unreadable --
insert into sync.dead_letter (source, record_key, value, position, code, cause)
select r.source, r.record_key, decode(r.value, 'hex'), r.position, r.code, r.cause
from json_to_recordset(%(rows)s::json) as r(source text, record_key text, value text, position text, code text, cause text)
on conflict (source, position) where position is not null do nothing

-- claim --
-- Ready intents, live ones before backfill, and writes whose worker is gone (expired lease), with their frozen bytes.
with ready as materialized (
  select connection, org_id, external_type, entity_id from sync.push_intent
  where org_id = %(org)s and connection = %(connection)s and state in ('PENDING', 'RETRY', 'UNKNOWN') and priority = 0
    and not_before <= %(now)s
  order by not_before limit %(limit)s for update skip locked),
backfill as materialized (
  select connection, org_id, external_type, entity_id from sync.push_intent
  where org_id = %(org)s and connection = %(connection)s and state in ('PENDING', 'RETRY', 'UNKNOWN') and priority = 1
    and not_before <= %(now)s
  order by not_before limit greatest(0, %(limit)s - (select count(*) from ready)) for update skip locked),
left_over as materialized (
  select connection, org_id, external_type, entity_id from sync.push_intent
  where org_id = %(org)s and connection = %(connection)s and state = 'SENDING' and lease_until <= %(now)s
  order by lease_until limit %(limit)s for update skip locked)
update sync.push_intent p set
  state = 'SENDING', fence = p.fence + 1, lease_until = %(lease)s, slot = %(slot)s, attempt = p.attempt + 1,
  claimed_seq = case when p.body is null then p.wanted_seq else p.claimed_seq end, claimed_at = %(now)s
from (select * from ready union all select * from backfill union all select * from left_over) c
where (p.org_id, p.connection, p.external_type, p.entity_id) = (c.org_id, c.connection, c.external_type, c.entity_id)
returning p.external_type, p.entity_type, p.entity_id, p.sync_key, p.reason, p.fence, p.claimed_seq, p.generation, p.attempt, p.first_failed_at,
          p.first_sent_at, p.error_code, p.op, p.external_id, p.idem_key, p.body, p.sent, p.changed, p.link_rev, p.resolve, p.resolve_token, p.resolve_tries,
          p.event_done, p.event_claimed, p.counted_at, p.hold_id, p.committed_at, p.planned_at, p.claimed_at

-- next_due --
-- When the lane has something to do next; null when nothing waits.
select min(at) from (
  (select not_before as at from sync.push_intent
   where org_id = %(org)s and connection = %(connection)s and state in ('PENDING', 'RETRY', 'UNKNOWN') and priority = 0
   order by not_before limit 1)
  union all
  (select not_before from sync.push_intent
   where org_id = %(org)s and connection = %(connection)s and state in ('PENDING', 'RETRY', 'UNKNOWN') and priority = 1
   order by not_before limit 1)
  union all
  (select lease_until from sync.push_intent
   where org_id = %(org)s and connection = %(connection)s and state = 'SENDING' order by lease_until limit 1)) due

-- release_slot --
-- A worker that starts with this slot proves that the slot's former holder is dead: its writes need not wait for the lease.
update sync.push_intent set lease_until = %(now)s where state = 'SENDING' and slot = %(slot)s

-- links_and_states --
select l.entity_id, l.external_id, s.rev, s.base, s.external_version,
       (select jsonb_object_agg(c.field, c.theirs) from sync.conflict c where c.org_id = l.org_id and c.connection = l.connection
          and c.entity_id = l.entity_id and c.resolved_at is null),
       l.link_metadata -> 'unresolved'
from sync.external_link l left join sync.link_state s on s.org_id = l.org_id and s.link_id = l.id
where l.org_id = %(org)s and l.connection = %(connection)s and l.entity_id = any(%(ids)s) and l.deleted_at is null

-- freeze --
-- What will be sent, committed before the first byte leaves.
update sync.push_intent p set op = r.op, external_id = r.external_id, idem_key = r.idem_key, body = decode(r.body, 'base64'), sent = r.sent, changed = r.changed,
  link_rev = r.link_rev, event_claimed = r.event_claimed, first_sent_at = %(now)s, counted_at = coalesce(r.counted_at, p.counted_at)
from (select *, %(org)s::text as org_id, %(connection)s::text as connection from json_to_recordset(%(rows)s::json) as j(external_type text,
     entity_id text, fence bigint, op text, external_id text, idem_key text, body text, sent jsonb, changed text[], link_rev bigint, event_claimed bigint,
     counted_at timestamptz) offset 0) r
where p.org_id = r.org_id and p.connection = r.connection and p.external_type = r.external_type and p.entity_id = r.entity_id
  and p.fence = r.fence

-- settle --
-- The result of claims, guarded by their fence: a worker that lost its claim changes nothing. `state` is what the
-- intent becomes when nothing newer is wanted; `keep_bytes` false thaws the write; `more`: of an event-like type, later
-- versions wait.
update sync.push_intent p set
  done_seq = case when r.done then greatest(p.done_seq, p.claimed_seq) else p.done_seq end,
  state = case when r.state in ('DONE', 'DEAD') and (p.wanted_seq > p.claimed_seq or r.more) then 'PENDING' else r.state end,
  not_before = coalesce(r.not_before, p.planned_at, %(now)s),
  attempt = case when r.done then 0 when r.free_try then greatest(p.attempt - 1, 0) else p.attempt end,
  first_failed_at = case when r.done or r.free_try then null else coalesce(p.first_failed_at, %(now)s) end,
  generation = p.generation + case when r.done and p.op = 'delete' and r.called then 1 else 0 end,
  body = case when r.keep_bytes then p.body end,
  sent = case when r.keep_bytes then p.sent end,
  first_sent_at = case when r.keep_bytes then p.first_sent_at end,
  resolve = r.resolve, resolve_token = r.resolve_token, resolve_tries = coalesce(r.resolve_tries, 0),
  event_done = greatest(p.event_done, coalesce(r.event_done, 0)),
  hold_id = case when r.hold_id is not null then r.hold_id when r.done then null else p.hold_id end,
  lease_until = null, slot = null,
  error_code = r.error_code, error_cause = r.error_cause
from (select *, %(org)s::text as org_id, %(connection)s::text as connection from json_to_recordset(%(rows)s::json) as j(external_type text,
     entity_id text, fence bigint, done boolean, called boolean, state text, not_before timestamptz, keep_bytes boolean, free_try boolean,
     resolve text, resolve_token text, resolve_tries smallint, event_done bigint, more boolean, hold_id bigint,
     error_code text, error_cause text) offset 0) r
where p.org_id = r.org_id and p.connection = r.connection and p.external_type = r.external_type and p.entity_id = r.entity_id
  and p.fence = r.fence and p.state || '' = 'SENDING'  -- no column, so that nobody looks in the index of states
returning p.external_type, p.entity_id, p.state

-- confirm --
-- Links of creates, and the state of every confirmed write. Where nobody touched the state since the write was built, they
-- hold what we sent. Where an event of theirs did (rev moved on), the later of the two is what they hold: ours, if their
-- answer told a later time; theirs, if it told an earlier one; and if it told none, nobody knows, so the base is emptied
-- and all is sent again. In all three cases the intent is wanted once more. `over` keeps our last five pushes of a day,
-- each with the state it was sent over, see rules.overtaken; one that came back before its answer is in it already.
with r as materialized (
  select *, %(org)s::text as org_id, %(connection)s::text as connection from json_to_recordset(%(rows)s::json) as r(external_type text,
    entity_type text, entity_id text, sync_key text, external_id text, op text, link_rev bigint, sent jsonb, external_version text, external_updated_at timestamptz, sent_at timestamptz)
  order by external_type, entity_id),
made as (
  insert into sync.external_link as l (org_id, connection, external_type, external_id, entity_type, entity_id, sync_key, made_by)
  select %(org)s, %(connection)s, r.external_type, r.external_id, r.entity_type, r.entity_id, r.sync_key, 'push' from r where r.op = 'create'
  on conflict (org_id, connection, external_type, entity_type, entity_id) where deleted_at is null do update set external_id = l.external_id
  returning l.id, l.external_type, l.entity_id),
link as (
  select id, external_type, entity_id from made
  union all
  select l.id, l.external_type, l.entity_id from r join sync.external_link l on l.org_id = r.org_id and l.connection = r.connection
    and l.external_type = r.external_type and l.entity_type = r.entity_type and l.entity_id = r.entity_id and l.deleted_at is null
  where r.op = 'update'),
sent as materialized (select link.id, r.* from r join link using (external_type, entity_id)),
state as (
  insert into sync.link_state as s (org_id, link_id, rev, base, external_version, external_updated_at, last_processed_at, pushed_at)
  select %(org)s, id, 1, sent, external_version, external_updated_at, %(now)s, sent_at from sent
  on conflict (org_id, link_id) do update set
    rev = s.rev + 1,
    base = case when s.rev = (select link_rev from sent where id = s.link_id) or excluded.external_updated_at > s.external_updated_at
                then excluded.base
                when excluded.external_updated_at is null then '{}' else s.base end,
    external_version = case when excluded.external_updated_at <= s.external_updated_at then s.external_version
                            else coalesce(excluded.external_version, s.external_version) end,
    external_updated_at = greatest(excluded.external_updated_at, s.external_updated_at),
    last_processed_at = excluded.last_processed_at, pushed_at = excluded.pushed_at,
    over = case
      when coalesce(excluded.external_version, excluded.external_updated_at::text) is null
        or excluded.external_updated_at <= s.external_updated_at then s.over
      else jsonb_path_query_array(case when s.last_processed_at > %(now)s::timestamptz - interval '24 hours' then s.over else '[]' end || jsonb_build_object('base', s.base, 'version', s.external_version, 'at', s.external_updated_at,
        'pushed_version', excluded.external_version, 'pushed_at', excluded.external_updated_at, 'sure', true), '$[last - 4 to last]') end
  returning link_id, old.rev as rev_before)
update sync.push_intent p set wanted_seq = p.wanted_seq + 1, reason = 'moved_meanwhile', not_before = %(now)s,
  state = case when p.state in ('DONE', 'DEAD') then 'PENDING' else p.state end
from sent join state on state.link_id = sent.id
where rev_before is not null and rev_before is distinct from sent.link_rev and p.org_id = sent.org_id and p.connection = sent.connection
  and p.external_type = sent.external_type and p.entity_id = sent.entity_id

-- unlink --
update sync.external_link set deleted_at = %(now)s, link_metadata = link_metadata || '{"deleted_by_us": true}'
where org_id = %(org)s and connection = %(connection)s and deleted_at is null
  and (entity_id = any(%(ids)s) or part <> '' and sync_key = any(array(select %(org)s || '/' || i from unnest(%(ids)s::text[]) i)))

-- dead_letters --
insert into sync.dead_letter (org_id, connection, source, record_key, position, code, cause)
select %(org)s, %(connection)s, 'push', r.entity_id, r.position, r.error_code, r.error_cause
from json_to_recordset(%(rows)s::json) as r(entity_id text, position text, error_code text, error_cause text)
on conflict (source, position) where position is not null do update
  set code = excluded.code, cause = excluded.cause, state = 'open', created_at = %(now)s, closed_at = null

-- close_dead_letters --
update sync.dead_letter set state = 'redriven', closed_at = %(now)s
where source = 'push' and state = 'open' and position = any(%(positions)s)

-- breaker_open --
insert into sync.breaker as b (org_id, connection, slot, failures, opened_at, code, cause)
values (%(org)s, %(connection)s, %(slot)s, %(failures)s, %(now)s, %(code)s, %(cause)s)
on conflict (org_id, connection, slot) do update set failures = excluded.failures, code = excluded.code, cause = excluded.cause

-- breaker_closed --
delete from sync.breaker where org_id = %(org)s and connection = %(connection)s and slot = %(slot)s
