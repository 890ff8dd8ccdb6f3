"""`up`, `down`, `stack`, `logs`, `psql`: the stack on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from streams.cli import session, show
from streams.cli.examples import examples

if TYPE_CHECKING:
    from streams.stack.embedded import Stack

P = ParamSpec("P")
NOT_RUNNING = 3

HomeOption = Annotated[Path | None, typer.Option("--home", help="State of the stack; also before the command.")]
Component = Annotated[
    str, typer.Argument(metavar="COMPONENT", help="postgres, kafka, registry, connect, worker or gateway.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("syncline up", "syncline up -d", "syncline up -d --stack-only"))(_coded(up))
    app.command(epilog=examples("syncline down", "syncline down --wipe --yes"))(_coded(down))
    app.command(epilog=examples("syncline logs", "syncline logs connect -f", "syncline logs kafka -n 200"))(
        _coded(logs)
    )
    app.command(
        epilog=examples("syncline psql", "syncline psql -c 'select count(*) from canon.person'"),
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]},
    )(_coded(psql))
    group = typer.Typer(
        help="Start, stop or kill one part of the stack, to see what the rest makes of it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("start", epilog=examples("syncline stack start connect"))(_coded(start))
    group.command("stop", epilog=examples("syncline stack stop connect"))(_coded(stop))
    group.command("kill", epilog=examples("syncline stack kill kafka", "syncline stack kill worker --restart"))(
        _coded(kill)
    )
    group.command("status", epilog=examples("syncline stack status", "syncline stack status --json"))(_coded(status))
    group.command("compose", epilog=examples("syncline stack compose > docker-compose.yml"))(_coded(compose))
    app.add_typer(group, name="stack")


def up(
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return when everything is ready.")] = False,
    stack_only: Annotated[
        bool, typer.Option("--stack-only", help="No worker and no gateway: you run those yourself.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Start Postgres, Kafka, Connect with Debezium, the schema registry, a worker and a gateway on this machine.

    The first start downloads about 220 MB, once for all homes of this user. Then it prepares schema, topics and the
    connector. In the foreground Ctrl-C ends everything; with -d `syncline down` does. State is kept either way.
    """
    from streams.cli import stack_view
    from streams.prepare import prepare
    from streams.stack import launch, running
    from streams.stack.components import PROCESSES, STACK

    one = _stack(home)
    wanted = STACK if stack_only else (*STACK, *PROCESSES)
    already = running.attached(one.home, wanted)
    if already:
        show.say(f"Already running at {one.home.path}.")
        stack_view.table(already)
        return
    install = launch.ready_installation(one.home.path, stack_view.download())
    if detach:
        running.detached(one.home, install, wanted, report=stack_view.report, prepare=prepare)
        stack_view.table(one.status())
        show.say("Stop it with `syncline down`; look at it with `syncline status`.")
        return
    running.foreground(one.home, install, wanted, report=stack_view.report, prepare=prepare)
    show.say("Everything has ended; the state is kept.")


def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove databases, topics, keys and logs as well.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: HomeOption = None,
) -> None:
    """Stop the stack and wait until all of it is gone. State is kept unless you ask for --wipe."""
    one = _stack(home)
    if wipe and not yes and sys.stdin.isatty():
        typer.confirm(f"Remove everything the stack keeps at {one.home.path}?", abort=True)
    was_running = one.running()
    if wipe:
        one.wipe()
    elif was_running:
        one.stop()
    show.say(f"Stopped the stack at {one.home.path}." if was_running else f"No stack runs at {one.home.path}.")
    if wipe:
        show.say("Its state is removed; downloads are kept.")


def start(component: Component, home: HomeOption = None) -> None:
    """Start a part that is stopped, and what it needs; returns when it is ready."""
    _stack(home).start_component(component)
    show.say(f"{component} is ready.")


def stop(component: Component, home: HomeOption = None) -> None:
    """Stop one part in its orderly way. It stays down until `syncline stack start`."""
    _stack(home).stop_component(component)
    show.say(f"{component} is stopped.")


def kill(
    component: Component,
    restart: Annotated[
        bool, typer.Option("--restart", help="Let the supervisor bring it back, as after a crash.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """End one part with SIGKILL, as a crash would. It stays down until `syncline stack start`."""
    _stack(home).kill(component, restart=restart)
    show.say(f"{component} is killed.")


def status(as_json: session.Json = False, home: HomeOption = None) -> None:
    """Show the parts of the stack: state, port, process, memory, log."""
    from streams.cli import stack_view

    found = _stack(home).status()
    if as_json:
        show.as_json(found)
    else:
        stack_view.table(found)


def compose() -> None:
    """Print docker-compose.yml: the same parts with the same settings, in containers."""
    from streams.stack import compose as containers

    print(containers.text(), end="")


def logs(
    component: Annotated[str | None, typer.Argument(help="Which part; all when left out.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as more is written.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the last lines.")] = 20,
    home: HomeOption = None,
) -> None:
    """Show the logs, also those of a stack that has ended."""
    from streams.stack import logs as reading

    paths = reading.files(_stack(home).home, component)
    width = max((len(path.stem) for path in paths), default=0) if component is None else 0
    positions = {}

    def say(path: Path, line: str) -> None:
        print(f"{path.stem:<{width}} | {line}" if width else line, flush=follow)

    for path in paths:
        last, positions[path] = reading.tail(path, lines)
        for line in last:
            say(path, line)
    if follow:
        for path, more in reading.follow(positions):
            for line in more:
                say(path, line)


def psql(
    context: typer.Context,
    role: Annotated[str, typer.Option(help="Who to be: app, applier, owner, admin or capture.")] = "app",
    home: HomeOption = None,
) -> None:
    """Open psql on the canonical database; every further argument goes to psql."""
    from streams.stack import psql as program

    if role not in program.ROLES:
        raise typer.BadParameter(f"choose from {', '.join(program.ROLES)}", param_hint="--role")
    from streams.settings import load

    program.run(load(_stack(home).home.path), role, context.args)


def _stack(home: Path | None) -> Stack:
    from streams.stack.embedded import Stack

    given = home.expanduser().absolute() if home else None
    return Stack(given or session.settings().home)


def _coded(command: Callable[P, Any]) -> Callable[P, Any]:
    """Where no stack runs the exit code is 3: scripts tell it from a failure."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        from schemas.problems import Problem

        try:
            command(*arguments, **options)
        except Problem as problem:
            if problem.code != "not_running":
                raise
            show.problem(problem)
            raise typer.Exit(NOT_RUNNING) from problem

    return run
