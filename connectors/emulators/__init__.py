"""External systems that run here: real envelopes, real limits, chosen faults, and an oracle for tests and benchmarks.

Place in the flow: on the other side of the wire. `server` runs one system's emulator (`syncline emulate`, or in-process
with `serve`); `app` is the ASGI application around it: latency, faults, the log of calls; `control` answers
`/_emulator/…`; the system itself is `connectors.systems.<name>.emulator.EMULATOR`, a class that fulfils `world.System`
and knows nothing of HTTP servers.

    GET    /_emulator/state                 {"records": {TYPE: {ID: record}}, "deleted": {TYPE: [ID]}, "clock": ISO}
    GET    /_emulator/counts                {"calls", "by_status", "creates": {TYPE: {NATURAL_KEY: N}},
                                             "webhooks": {"sent", "dropped", "duplicated", "failed", "waiting"}, …}
    GET    /_emulator/calls?after=N&limit=M [{"n", "at" (unix s), "method", "path", "status", "type", "keys", "body"}]
    GET    /_emulator/records/TYPE[/ID]
    PUT    /_emulator/records/TYPE[/ID]     the record's fields; under TYPE a list of them, new or with `id`; DELETE
                                            needs the ID
    POST   /_emulator/faults                [{"kind", "rate" or "next", "match": path prefix, "method", options}];
                                            [] clears
    GET    /_emulator/webhooks?after=N      the bodies that receivers took
    POST   /_emulator/webhooks              {"url", "secret"}; {"url": null} stops all
    POST   /_emulator/clock                 {"now": ISO} stands still there; {"skew_s": N} runs N s off; {} is right
    POST   /_emulator/reset                 as after the start: seeded records only, no faults, no webhooks
"""

from connectors.emulators.server import Running, run, serve

__all__ = ["Running", "run", "serve"]
