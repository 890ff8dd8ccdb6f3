"""Webhook bodies that no honest system sends, against a running gateway: it refuses or keeps them, never stumbles."""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import httpx
import psutil

from connectors import webhook
from streams.connections import Webhook
from tests.acceptance import site
from tests.acceptance.site import Site, Step, Told

GROWTH_BYTES = 64 * 2**20
SLOWEST_S = 1.0
Body = tuple[bytes, dict[str, str]]
"""The bytes and the headers that tell of them."""


def _record(dice: random.Random) -> bytes:
    record = {"id": f"r{dice.randrange(1000)}", "version": dice.randrange(10**6), "first_name": "Ann"}
    at = datetime.fromtimestamp(dice.randrange(2 * 10**9), UTC).isoformat()
    return json.dumps({"type": "record.changed", "kind": "people", "record": {**record, "updated_at": at}}).encode()


def _truncated(dice: random.Random) -> Body:
    whole = _record(dice)
    return whole[: dice.randrange(len(whole))], {}


def _nested(dice: random.Random) -> Body:
    opening, closing = dice.choice([(b"[", b"]"), (b'{"a":', b"}")])
    depth = dice.choice([200, 10_000, 100_000])
    return opening * depth + b"1" + closing * dice.choice([depth, 0]), {}


def _bomb(dice: random.Random) -> Body:
    size = dice.choice([2, 20, 200]) * 2**20
    zeros = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(zeros.compress(bytes(2**20)) for _ in range(size // 2**20)) + zeros.flush()
    return packed[: 2**20 - 1], {"content-encoding": "gzip"}


def _gzipped(dice: random.Random) -> Body:
    packed = gzip.compress(_record(dice))
    return packed[: dice.choice([len(packed), len(packed) // 2])], {
        "content-encoding": dice.choice(["gzip", "br", "x"])
    }


def _huge_number(dice: random.Random) -> Body:
    number = dice.choice([b"9" * 100_000, b"1e999999", b"-1e-99999", b"0." + b"1" * 50_000, b"NaN", b"-Infinity"])
    return b'{"type":"record.changed","kind":"people","record":{"id":"n","version":' + number + b"}}", {}


def _encoded(dice: random.Random) -> Body:
    coding = dice.choice(["utf-16", "utf-32", "latin-1", "utf-8-sig", "utf-7"])
    return '{"type": "record.changed", "kind": "Zoë"}'.encode(coding), {
        "content-type": f"application/json; charset={dice.choice([coding, 'nonsense'])}"
    }


def _twice(dice: random.Random) -> Body:
    return _record(dice)[:-1] + b', "kind": "campuses"}', {}


def _noise(dice: random.Random) -> Body:
    return dice.randbytes(dice.choice([0, 1, 100, 10_000])), {}


def _flipped(dice: random.Random) -> Body:
    body = bytearray(_record(dice))
    for _ in range(dice.randrange(1, 6)):
        body[dice.randrange(len(body))] = dice.randrange(256)
    return bytes(body), {}


def _large(dice: random.Random) -> Body:
    return b'{"a": "' + b"x" * dice.choice([2**20 - 100, 2**20 + 1, 2 * 2**20]) + b'"}', {}


def _odd(dice: random.Random) -> Body:
    content = dice.choice(["null", "true", "0", '""', "[]", "{}", '{"type": null}', '{"type": "record.changed"}'])
    return content.encode(), {"content-type": dice.choice(["application/json", "text/html", "", "application/xml"])}


def _zero(dice: random.Random) -> Body:
    return _record(dice).replace(b"Ann", dice.choice([b"\\u0000", b"\\ud800", b"\\uffff", "💥".encode()])), {}


KINDS: Sequence[Callable[[random.Random], Body]] = (
    _truncated, _nested, _gzipped, _huge_number, _encoded, _twice, _noise, _flipped, _odd, _zero, _large, _bomb,
)  # fmt: skip
SELDOM = frozenset({_large, _bomb})
"""Kinds that take long to make: once in twenty."""


def assault(post: Callable[[bytes, dict[str, str]], int], count: int, seed: int) -> Told:
    """Post so many bodies, one after the other; answers by status, and the slowest in seconds."""
    dice = random.Random(seed)
    statuses: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    slowest = 0.0
    while statuses.total() < count:
        make = dice.choice(KINDS)
        if make in SELDOM and dice.random() < 0.95:
            continue
        body, headers = make(dice)
        began = time.monotonic()
        statuses[post(body, headers)] += 1
        slowest = max(slowest, time.monotonic() - began)
        kinds[make.__name__.strip("_")] += 1
    return {"statuses": dict(statuses), "slowest_s": round(slowest, 3), "kinds": dict(kinds)}


def poster(http: httpx.Client, hook: Webhook, dice: random.Random) -> Callable[[bytes, dict[str, str]], int]:
    """Posts to the hook; four of five are signed as the system would."""
    number = iter(range(10**9))

    def post(body: bytes, headers: dict[str, str]) -> int:
        secret = hook.secret.get_secret_value() if dice.random() < 0.8 else "whsec_d3Jvbmc="
        signed = webhook.sign(webhook.STANDARD, body, secret, f"fuzz_{next(number)}", datetime.now(UTC))
        given = {"content-type": "application/json", **headers, **signed}
        return http.post(hook.url.get_secret_value(), content=body, headers=given).status_code

    return post


def fuzz(at: Site, count: int, seed: int) -> Told:
    """`count` bodies against the site's gateway: no 5xx, nothing slow, no memory lost."""
    org = "org_fuzz"
    hook = at.connect(org, "sim-keyed", at.emulate("sim-keyed", seed=seed))
    gateway = psutil.Process(at.stack.status()["components"]["gateway"]["pid"])
    with httpx.Client(timeout=30) as http:
        assault(poster(http, hook, random.Random(seed)), min(500, count), seed + 1)  # it has warmed up then
        before = gateway.memory_info().rss
        told = assault(poster(http, hook, random.Random(seed + 2)), count, seed)
    grown = gateway.memory_info().rss - before
    failures = sum(times for status, times in told["statuses"].items() if status >= 500)
    held = not failures and grown < GROWTH_BYTES and told["slowest_s"] <= SLOWEST_S
    return {"bodies": count, "seed": seed, **told, "grown_mb": round(grown / 2**20, 1), "5xx": failures, "held": held}


def steps(at: Site, seed: int, scale: float) -> Sequence[Step]:
    """The one step, for a run by itself."""

    def fuzzed() -> Told:
        return fuzz(at, max(1, int(10_000 * scale)), seed)

    return [fuzzed]


if __name__ == "__main__":
    sys.exit(site.run("fuzz", (__doc__ or "").splitlines()[0], steps))
