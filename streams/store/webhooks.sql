-- Statements of the webhook ingress.

-- endpoint --
-- Whose webhooks arrive under a token; only its hash is kept.
select e.org_id, e.connection, n.system
from sync.webhook_endpoint e join sync.connection n on n.org_id = e.org_id and n.name = e.connection
where e.token_hash = %(hash)s and n.state <> 'disconnected'

-- known --
select 1 from sync.webhook_delivery where org_id = %(org)s and connection = %(connection)s and delivery_id = %(id)s

-- delivered --
insert into sync.webhook_delivery (org_id, connection, delivery_id, received_at, events)
values (%(org)s, %(connection)s, %(id)s, %(now)s, %(events)s)
on conflict (org_id, connection, delivery_id) do nothing
