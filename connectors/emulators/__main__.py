"""`python -m connectors.emulators SYSTEM --port N …`, the same as `syncline emulate`."""

from __future__ import annotations

import argparse
import sys

from connectors import registry
from connectors.emulators.faults import parse_option
from connectors.emulators.server import run
from schemas.problems import Problem


def main(arguments: list[str] | None = None) -> int:
    """Run one emulator; 0 after Ctrl-C, 2 when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m connectors.emulators", description="Run an external system's emulator."
    )
    parser.add_argument("system", help=f"one of: {', '.join(registry.names())}")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one and prints it")
    parser.add_argument("--seed-records", type=int, default=0, metavar="N")
    parser.add_argument("--latency", type=float, default=0, metavar="MS")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND:RATE")
    parser.add_argument("--seed", type=int, default=0, help="of its dice")
    given = parser.parse_args(arguments)
    try:
        run(
            given.system,
            given.host,
            given.port,
            seed_records=given.seed_records,
            latency_ms=given.latency,
            faults=[parse_option(text) for text in given.fault],
            seed=given.seed,
        )
    except Problem as problem:
        print(f"{problem} {problem.next_step}".strip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
