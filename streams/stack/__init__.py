"""The embedded stack: Postgres, Kafka, Connect with Debezium and the schema registry as local processes.

Read in this order: `versions` (what is pinned), `site` and `components` (what runs, with which settings), `jarlock` and
`downloads` (where the bytes come from), `state` (what a home remembers), `processes` (one child), `supervisor` (all),
`control` (how a command reaches it), `running` and `embedded` (the command and the library API), `compose` (the same,
for containers).
"""
