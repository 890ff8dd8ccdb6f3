"""One call of a lane: writes sent, an uncertain create searched for, a 202 asked about, a newer version fetched.

Whatever comes of it is a `Result` for the committer. Nothing here touches the database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog

from connectors.contract import Client, Delivered, ExternalRecord, Failed, Outcome
from connectors.errors import Ambiguous, ConnectorError, Rejected
from schemas.problems import Problem
from streams.outbound.outcomes import Result
from streams.outbound.writes import Claim
from streams.rules import retries
from streams.rules.breakers import Breaker
from streams.rules.retries import Done, Refetch, Terms

Refresh = Callable[[ExternalRecord], Awaitable[None]]
"""Publishes a record of theirs that was fetched, so that the applier decides about it."""

_log = structlog.get_logger("outbound.call")


class Calls:
    """Calls of one connection; `breaker` learns from each.

    Args:
        refresh: where a newer version of theirs goes that refused a write of ours.
    """

    def __init__(
        self, client: Client, terms: Terms, breaker: Breaker, *, refresh: Refresh, now: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._terms = terms
        self._breaker = breaker
        self._refresh = refresh
        self._now = now

    async def make(self, claims: Sequence[Claim]) -> list[Result]:
        """One call for these claims: all to be sent, or one whose outcome is looked for."""
        match claims[0].resolve:
            case "search":
                return [await self._search(claims[0])]
            case "check":
                return [await self._check(claims[0])]
            case _:
                return await self._write(claims)

    async def _write(self, claims: Sequence[Claim]) -> list[Result]:
        sent_at = self._now()
        outcomes = await self._send([claim.body or b"" for claim in claims])
        answered_at = self._now()
        self._breaker.note(outcomes[0], sent_at, answered_at)
        results = [self._result(*pair, sent_at, answered_at) for pair in zip(claims, outcomes, strict=True)]
        for result in results:
            if isinstance(result.next, Refetch):
                await self._fetch(result.claim)
        return results

    async def _send(self, bodies: list[bytes]) -> list[Outcome]:
        """Send; where a batch is refused as a whole, halve it until only the refused records are."""
        outcomes = list(await self._client.send(bodies))
        refused = all(isinstance(o, Failed) and isinstance(o.error, Rejected) for o in outcomes)
        if len(bodies) > 1 and refused:
            half = len(bodies) // 2
            return await self._send(bodies[:half]) + await self._send(bodies[half:])
        return outcomes

    async def _search(self, claim: Claim) -> Result:
        """Look for the record a create with a lost answer may have made."""
        sent_at, failure = self._now(), None
        try:
            found = await self._client.find(claim.body or b"")
        except ConnectorError as error:
            found, failure = None, error
        answered_at = self._now()
        if found:
            told = Delivered(
                found.external_id, 200, external_version=found.external_version, external_updated_at=found.occurred_at
            )
            return Result(claim, told, Done(), sent_at, answered_at)
        if failure:
            self._breaker.note(Failed(failure), sent_at, answered_at)
        follows = retries.after_search(failure, claim.as_attempt(), terms=self._terms, now=answered_at)
        outcome = Failed(failure or Ambiguous("not_found_yet", "a search for our marker found nothing"))
        return Result(claim, outcome, follows, sent_at, answered_at)

    async def _check(self, claim: Claim) -> Result:
        """Ask what became of a write they took with a 202."""
        sent_at = self._now()
        outcome = await self._client.check(claim.resolve_token or "")
        answered_at = self._now()
        self._breaker.note(outcome, sent_at, answered_at)
        token = claim.resolve_token or ""
        follows = retries.after_check(outcome, token, claim.as_attempt(), terms=self._terms, now=answered_at)
        return Result(claim, outcome, follows, sent_at, answered_at)

    async def _fetch(self, claim: Claim) -> None:
        """Read what refused our write and let the applier decide; until then, and if it fails, the write waits."""
        try:
            record = await self._client.fetch(claim.external_type, claim.external_id or "")
            if record:
                await self._refresh(record)
        except Problem as error:
            _log.warning("fetch_failed", type=claim.external_type, entity=claim.entity_id, code=error.code)

    def _result(self, claim: Claim, outcome: Outcome, sent_at: datetime, answered_at: datetime) -> Result:
        down = self._breaker.until if self._breaker.is_open else None
        follows = retries.after(outcome, claim.as_attempt(), terms=self._terms, now=answered_at, down_until=down)
        return Result(claim, outcome, follows, sent_at, answered_at)
