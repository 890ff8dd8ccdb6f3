-- Statements of the webhook ingress.

-- endpoint --
-- Whose webhooks arrive under a token, of which only the hash is kept, and whether this delivery came before, or the same
-- body, which says less: of hints every one counts.
select e.org_id, e.connection, n.system, d.delivery_id is not null
from sync.webhook_endpoint e
join sync.connection n on n.org_id = e.org_id and n.name = e.connection
left join sync.webhook_delivery d
  on d.org_id = e.org_id and d.connection = e.connection and d.delivery_id = %(id)s
where e.token_hash = %(hash)s and n.state <> 'disconnected'

-- known --
select 1 from sync.webhook_delivery where org_id = %(org)s and connection = %(connection)s and delivery_id = %(id)s

-- delivered --
-- Not waited for on the disk: the events are durable, and a delivery that comes again after a crash is the same events.
insert into sync.webhook_delivery (org_id, connection, delivery_id, received_at, events)
select %(org)s, %(connection)s, %(id)s, %(now)s, %(events)s
from (select set_config('synchronous_commit', 'off', true)) setting
on conflict (org_id, connection, delivery_id) do nothing
