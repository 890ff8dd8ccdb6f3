"""Their events to our tables: gateway and polls publish, `inbound.events` carries, the applier decides and writes.

webhook ─▶ streams.gateway.webhooks ─┐
                                     ├─▶ publish ─▶ inbound.events ─▶ agents ─▶ applier
their API ─▶ polls ──────────────────┘                                           ├─ reading  what we know of it
                                                                                 ├─ folding  what becomes of it
                                                                                 └─ writing  rows, links, states
"""
