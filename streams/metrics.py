"""What a worker tells Prometheus of its own work: calls, arrivals, retries, breakers, routes, what the sweep found.

Whatever the database knows (queues, dead letters, totals) is told by the gateway, see `streams.gateway.metrics`. No
label holds personal data or anything that grows with the data: organisations, connections, types and codes only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

import structlog
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from streams.store.accounting import RouteKey

SCOPE = ("org", "connection")

ARRIVAL = Histogram(
    "syncline_commit_to_arrival_seconds",
    "From the COMMIT of the oldest change to the answer that confirmed its write",
    [*SCOPE, "entity_type"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300, 1800, 7200, 43200),
)
CALL = Histogram(
    "syncline_call_seconds",
    "Calls to external systems, from sent to answered, by how they ended",
    [*SCOPE, "outcome"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
RETRIES = Counter("syncline_call_retries", "Calls that were not the first of their write", SCOPE)
BREAKER = Gauge("syncline_lane_breaker_open", "1 while this worker does not call a system that does not answer", SCOPE)
ROUTES = Counter(
    "syncline_planned_routes",
    "Where this worker's planner sent changes, one for each root and connection",
    [*SCOPE, "entity_type", "verdict", "reason"],
)
MISSED = Counter(
    "syncline_cdc_missed",
    "Changes that the sweep found in the tables and capture had not brought; each is lost work of capture",
    ["org", "entity_type"],
)

_log = structlog.get_logger("metrics")


class Named(Protocol):
    """A connection, as far as labels go."""

    @property
    def org_id(self) -> str:
        """Its organisation."""

    @property
    def name(self) -> str:
        """Its name in it."""


def recorded(connection: Named, deliveries: Iterable[Mapping[str, Any]]) -> None:
    """Calls that are on record now; rows as for `streams.store.deliveries.record`."""
    for row in deliveries:
        called(connection, row["outcome"], (row["answered_at"] - row["sent_at"]).total_seconds())
        if row["attempt"] > 1:
            retried(connection)
        committed_at: datetime | None = row["committed_at"]
        if row["outcome"] == "delivered" and committed_at is not None:
            arrived(connection, row["entity_type"], (row["answered_at"] - committed_at).total_seconds())


def arrived(connection: Named, entity_type: str, seconds: float) -> None:
    """They have a change, so many seconds after its COMMIT; two clocks may differ, no time is below nought."""
    ARRIVAL.labels(connection.org_id, connection.name, entity_type).observe(max(seconds, 0.0))


def called(connection: Named, outcome: str, seconds: float) -> None:
    """A call ended: `delivered`, or the error's code."""
    CALL.labels(connection.org_id, connection.name, outcome).observe(max(seconds, 0.0))


def retried(connection: Named) -> None:
    """A call was not the first of its write."""
    RETRIES.labels(connection.org_id, connection.name).inc()


def breaker(connection: Named, *, is_open: bool) -> None:
    """Whether this worker's breaker of the connection is open."""
    BREAKER.labels(connection.org_id, connection.name).set(int(is_open))


def forget(connection: Named) -> None:
    """The lane of the connection has ended in this worker: it says nothing of its breaker any more."""
    with contextlib.suppress(KeyError):
        BREAKER.remove(connection.org_id, connection.name)


def planned(routes: Mapping[RouteKey, int]) -> None:
    """A plan is committed: how many roots went where, by the fields of `streams.store.accounting.RouteKey`."""
    for labels, roots in routes.items():
        ROUTES.labels(*labels).inc(roots)


def missed(org_id: str, entity_type: str, roots: int) -> None:
    """The sweep has planned so many roots that capture should have brought."""
    MISSED.labels(org_id, entity_type).inc(roots)


def serve(host: str, port: int) -> Callable[[], None] | None:
    """Answer Prometheus on this port until the process ends; with 0 not at all. The answer stops it.

    A port that is taken is told and costs the metrics, never the work: workers may share one machine and its settings.
    """
    if not port:
        return None
    try:
        server, thread = start_http_server(port, addr=host)
    except OSError as error:
        _log.error("metrics_unserved", host=host, port=port, cause=error.strerror or type(error).__name__)
        return None
    _log.info("metrics_served", host=host, port=port)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
