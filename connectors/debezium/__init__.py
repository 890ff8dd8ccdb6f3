"""Capture: Debezium on Kafka Connect reads the WAL and writes the cdc topics.

`connector.json` holds the settings that are the same everywhere, each an invariant; `register` adds where things
are and what is captured, and puts the whole to Connect through `connect`, the client of its REST API.
"""
