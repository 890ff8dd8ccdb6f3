"""The demo from start to end: the exit code says whether nothing was lost, doubled or echoed."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from threading import Event

import psycopg
from rich.console import Console

from connectors import config
from streams import connections, logging
from streams.choices import Choices
from streams.demo.audit import pushes_of, sync_compare
from streams.demo.scenes import Scenes
from streams.demo.world import CONNECTION, SYSTEM, World
from streams.prepare import prepare
from streams.resources import manifest, plan_all
from streams.settings import Settings, default_home
from streams.stack import downloads
from streams.stack.embedded import Stack
from streams.stack.supervisor import Report

PLAIN_WIDTH = 120
POLL_S = 2.0
SILENCE_S = 3.0
NEXT = """
  It goes on running until Ctrl-C. Try, in another terminal:
    export SYNCLINE_HOME={home}
    syncline psql -c "insert into canon.person (first_name, last_name) values ('Ada', 'Lovelace') returning id"
    syncline why {person}
    curl -X PUT {theirs}/_emulator/records/individual/{person} -d '{{"lastName": "There"}}'
    syncline status
    syncline stack stop connect && syncline doctor"""


def run(
    home: Path | None = None,
    *,
    keep: bool = False,
    progress: downloads.Progress | None = None,
    report: Report | None = None,
) -> int:
    """Run the demo in a home of its own (default: `demo` beside the stack's); 0 when all is well.

    Args:
        keep: leave everything running and say what to try next, until Ctrl-C.
        progress: shows downloads.
        report: shows the parts as they come up.
    """
    logging.configure("warning")
    started, starting = time.monotonic(), Event()
    home = home or default_home().with_name(default_home().name + "-demo")
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    stack = Stack(
        home,
        stack_only=False,
        progress=progress,
        report=lambda event: report(event) if report and starting.is_set() else None,
    )
    stack.wipe()
    with World(home, stack) as world:
        starting.set()
        _start(world, console)
        starting.clear()
        scenes = Scenes(world, console)
        scenes.first()
        scenes.load()
        scenes.one_by_one()
        scenes.side_by_side()
        scenes.edit_there()
        scenes.lost_webhook()
        scenes.kill()
        scenes.both_at_once()
        code = _summary(world, scenes, console, started)
        if keep:
            _keep(world, console)
    if not keep:
        stack.wipe()
    return code


def _start(world: World, console: Console) -> None:
    console.rule("[bold]Syncline demo", align="left")
    begun = time.monotonic()
    console.print("  Postgres, Kafka, Connect with Debezium, the registry, a worker and a gateway start …")
    world.start_stack(prepare)
    world.start_emulator()
    connected = asyncio.run(connect(world.settings, world.theirs.url, poll_interval_s=POLL_S))
    world.theirs.send_webhooks_to(connected.webhook.url.get_secret_value(), connected.webhook.secret.get_secret_value())
    console.print(
        f"  running after {time.monotonic() - begun:.1f} s; connected to an emulated {SYSTEM} at {world.theirs.url}",
        highlight=False,
    )


async def connect(settings: Settings, url: str, *, poll_interval_s: float) -> connections.Connected:
    """Connect the demo's organisation to the emulated system, as `syncline connect` does."""
    service = connections.service(settings, "demo", plan_all())
    given = config.load({"type": SYSTEM, "url": f"{url}/mock-sync", "extraFields": []})
    async with await psycopg.AsyncConnection.connect(settings.dsn("app"), autocommit=True) as conn:
        choices = Choices(poll_interval_s=poll_interval_s)
        return await service.connect(conn, settings.org_id, CONNECTION, given, choices)


def _summary(world: World, scenes: Scenes, console: Console, started: float) -> int:
    console.print()
    console.rule("[bold]Was anything lost, doubled or sent back?", align="left")
    world.quiet(SILENCE_S)
    audit = sync_compare(world.settings.dsn("app"), world.settings.org_id, world.theirs, manifest(SYSTEM))
    echoed = sum(
        sum(pushes_of(world.theirs, frozenset({person}), after).values())
        for person, after in scenes.edited_there.items()
    )
    for example in audit.examples:
        console.print(f"  {example}", style="red", highlight=False)
    console.print(
        f"  {audit.compared:,} records compared field by field, no write for {SILENCE_S:.0f} s, "
        f"{time.monotonic() - started:.0f} s in all",
        highlight=False,
    )
    console.print()
    summary = f"{scenes.changes:,} changes, {audit.lost} lost, {audit.doubled} doubled, {echoed} echoed"
    console.print(summary, style="bold", highlight=False)
    return 0 if audit.lost == audit.doubled == echoed == 0 else 1


def _keep(world: World, console: Console) -> None:
    person = world.value("select id from canon.person order by id limit 1")
    console.print(NEXT.format(home=world.home, person=person, theirs=world.theirs.url), highlight=False)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("  stopping …")
