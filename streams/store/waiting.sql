-- Events that wait for the answers to our own creates, or for a locked row. Batches come as one JSON parameter.

-- doubts --
-- Creates that were sent and are not settled.
select p.entity_id, p.sent, coalesce(p.first_sent_at, p.claimed_at)
from sync.push_intent p
where p.org_id = %(org)s and p.connection = %(connection)s and p.external_type = %(type)s
  and p.op = 'create' and p.body is not null and p.sent is not null

-- wait --
insert into sync.waiting_event as w (event_id, org_id, connection, external_type, external_id, waits_for, value, position, received_at,
  not_before, waits_since)
select decode(r.event_id, 'hex'), %(org)s, %(connection)s, %(type)s, r.external_id, r.waits_for, decode(r.value, 'base64'), r.position,
  r.received_at, %(again)s, %(now)s
from json_to_recordset(%(rows)s::json) as r(event_id text, external_id text, waits_for text[], value text, position text, received_at timestamptz)
order by r.event_id
on conflict (event_id) do update set waits_for = excluded.waits_for, not_before = excluded.not_before

-- due --
-- Events whose record is linked by now, whose creates are settled, or at which it is time to look again.
select w.event_id, w.value, w.position from sync.waiting_event w
where w.not_before <= %(now)s
   or w.waits_for <> '{}' and (
     exists (select from sync.external_link l where l.external_id = w.external_id and l.connection = w.connection
             and l.external_type = w.external_type and l.org_id = w.org_id and l.deleted_at is null)
     or not exists (select from sync.push_intent p where p.entity_id = any(w.waits_for) and p.connection = w.connection
                    and p.external_type = w.external_type and p.org_id = w.org_id and p.op = 'create' and p.body is not null))
order by w.received_at, w.event_id limit %(limit)s
for update of w skip locked

-- released --
delete from sync.waiting_event where event_id = any(%(ids)s)

-- any --
select exists (select from sync.waiting_event)
