"""`make bench`: all benchmarks in one run, on a stack of their own; with `outbound` those of the outbound road only.

Prints JSON; notes belong into bench/README.md.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import dispatcher, inbound, outbound
from streams import logging
from streams.demo.run import connect
from streams.demo.world import World
from streams.prepare import prepare
from streams.stack.embedded import Stack


def main() -> None:
    logging.configure("warning")
    home = Path(tempfile.mkdtemp(prefix="syncline-bench-"))
    home.chmod(0o711)
    stack = Stack(home, stack_only=False)
    with World(home, stack) as world:
        world.start_stack(prepare)
        world.start_emulator()
        asyncio.run(connect(world.settings, world.theirs.url, poll_interval_s=900))
        world.rows("insert into canon.person (first_name) select 'Warm' || n from generate_series(1, 2000) n")
        world.until("the first rows", lambda: world.theirs.counts().get("submissions", 0) >= 2000, every_s=0.5)
        world.quiet(2)
        told = {"idle": outbound.idle(world), "backlog": outbound.backlog(world)}
        world.quiet(2)
        world.stack.stop_component("worker")
        told["dispatcher"] = dispatcher.run(world.settings)
        if sys.argv[1:] != ["outbound"]:
            told["inbound"] = inbound.run(world.settings)
            edge = [sys.executable, "-m", "bench.faust_edge", "--bootstrap", world.settings.kafka_bootstrap]
            done = subprocess.run(edge, capture_output=True, text=True, check=True)
            told["faust_edge"] = done.stdout.splitlines()[-3:]
    stack.wipe()
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
