"""Our changes to their systems: capture topics -> planner -> `sync.push_intent` -> dispatcher -> their API.

The planner turns a batch of changes into wishes ("this connection should hold the current state of this person") and
stores them with its offsets in one transaction. The dispatcher fulfils wishes: it reads the aggregate as it is now,
freezes the bytes, commits, sends, and records the outcome. The table between the two is the only way on.
"""
