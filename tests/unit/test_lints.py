"""Time, chance and entropy are handed in (rule R24): nothing that decides reads them, neither in Python nor in SQL.

Whoever must read them is named here, with the reason. A reason that no longer holds is a failure as well.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import streams

ROOT = Path(streams.__file__).parents[1]
Found = tuple[int, str]
"""Line and what is read there."""

# Python -----------------------------------------------------------------------------------------------------------

SOURCES = {
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
    "time.time", "time.time_ns", "time.localtime", "time.gmtime",
    "uuid.uuid1", "uuid.uuid4", "os.urandom",
}  # fmt: skip
"""Each of them, called or handed on; and whatever is in `random` and `secrets`."""

READERS = {
    "streams/clock.py": "it is what the others get",
    "streams/connections.py": "default of the argument `random`, which makes tokens",
    "streams/vault.py": "default of the argument `random`, which makes keys",
    "streams/demo/": "measures the product from outside",
    "streams/stack/": "starts programs: their ports, passwords and uptimes, no record of anybody's",
    "connectors/emulators/": "stands for other systems, which have clocks of their own",
}
"""Files and folders that read a clock or make something by chance, and why they may."""


def reads_of(tree: ast.Module) -> Iterator[Found]:
    """Where a module names one of the sources, whatever it has imported it as."""
    known = dict(imported(tree))
    seeded = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and (node.args or node.keywords)}
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = dotted(node, known)
        if name == "random.Random" and (node in seeded or node not in called):
            continue  # a generator with a seed, or the type of one that is handed in
        if name in SOURCES or name.startswith(("random.", "secrets.")):
            yield getattr(node, "lineno", 0), name


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Local name -> what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0], alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """The full name of `a.b.c`, empty for what is no name of a module's."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value, known)):
        return f"{owner}.{node.attr}"
    return ""


# SQL --------------------------------------------------------------------------------------------------------------

SQL_CLOCK = re.compile(
    r"\b(?:now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\s*\(\s*\)"
    r"|\b(?:current_timestamp|current_date|current_time|localtimestamp|localtime)\b"
    r"|'(?:now|today)'\s*::|\b(?:timestamptz|timestamp|date)\s+'(?:now|today)'",
    re.IGNORECASE,
)
COLUMN_DEFAULT = re.compile(r"\bdefault\s+(?:now|statement_timestamp)\s*\(\s*\)", re.IGNORECASE)
"""When a row was written: it records, and nobody decides by it."""

SQL_READERS = {
    "streams/store/migrations/0003_pre_canon_triggers.sql": "canon.stamp records when plain SQL edited a row",
    "streams/store/migrations/0019_pre_field_times.sql": "the same function, in its next form",
    "streams/store/migrations/0024_pre_spans.sql": "the same function again",
    "streams/store/migrations/0009_pre_delivery.sql": "makes the first partitions, once; later ones are told the day",
    "streams/store/migrations/0010_pre_push_event.sql": "sync.record_event records when a row was deleted",
    "streams/store/migrations/0017_pre_custom.sql": "sync.record_event records when a row was deleted",
    "streams/capture.py": "the age of a time that Postgres wrote, by the same clock",
    "streams/doctor/database.py": "the age of a time that Postgres wrote, by the same clock",
    "streams/progress.py": "records when an offset was stored",
    "streams/store/credentials.py": "records when a secret was stored",
}
"""Files whose SQL reads the server's clock beside column defaults, and why they may."""


def sql_reads(text: str) -> Iterator[Found]:
    """Where SQL reads the server's clock; comments and column defaults are left out."""
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        for match in SQL_CLOCK.finditer(COLUMN_DEFAULT.sub("", line)):
            yield number, match.group()


def without_comments(text: str) -> str:
    """The same lines without `--` and `/* */`; what is in quotes stays."""
    parts = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)
    return parts.sub(lambda match: match.group(1) or "\n" * match.group().count("\n"), text)


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string but docstrings, of f-strings what is fixed in them."""
    spoken = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in spoken:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode(errors="replace")


def sql_reads_of(tree: ast.Module) -> Iterator[Found]:
    """Where a string of a Python module reads the server's clock."""
    for start, text in literals(tree):
        yield from ((start + line - 1, what) for line, what in sql_reads(text))


# the repository ---------------------------------------------------------------------------------------------------


def python_files(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from sorted((ROOT / package).rglob("*.py"))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def allowed(path: str, readers: dict[str, str]) -> bool:
    return any(path == reader or (reader.endswith("/") and path.startswith(reader)) for reader in readers)


def all_reads() -> dict[str, list[Found]]:
    return {
        place(p): list(reads_of(ast.parse(p.read_text()))) for p in python_files("streams", "connectors", "schemas")
    }


def all_sql_reads() -> dict[str, list[Found]]:
    files = sorted((ROOT / "streams" / "store").rglob("*.sql"))
    found = {place(p): list(sql_reads(p.read_text())) for p in files}
    return found | {place(p): list(sql_reads_of(ast.parse(p.read_text()))) for p in python_files("streams")}


@pytest.mark.covers("R24")
@pytest.mark.parametrize(("reads", "readers"), [(all_reads, READERS), (all_sql_reads, SQL_READERS)], ids=["py", "sql"])
def test_time_and_chance_are_handed_in(reads, readers):
    others = {path: found for path, found in reads().items() if not allowed(path, readers)}
    told = [f"{path}:{line} {what}" for path, found in others.items() for line, what in found]
    assert told == [], "Take it as an argument; composition roots hand in streams.clock"


@pytest.mark.parametrize(("reads", "readers"), [(all_reads, READERS), (all_sql_reads, SQL_READERS)], ids=["py", "sql"])
def test_whoever_may_read_them_does(reads, readers):
    reading = {path for path, found in reads().items() if found}
    assert [one for one in readers if not any(allowed(path, {one: ""}) for path in reading)] == []


# the lints themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from datetime import datetime\ndatetime.now()", ["datetime.datetime.now"]),
        ("import datetime as dt\nf(key=dt.datetime.now)", ["datetime.datetime.now"]),
        ("from time import time as t\nt()", ["time.time"]),
        ("import random\nrandom.random()\nrandom.Random()", ["random.random", "random.Random"]),
        ("import random\ndef f(dice: random.Random): return dice.random(), random.Random(7)", []),
        ("from uuid import uuid4\nx = [uuid4]", ["uuid.uuid4"]),
        ("import os, secrets\nos.urandom(4), secrets.token_hex()", ["os.urandom", "secrets.token_hex"]),
        ("import time\ntime.monotonic()", []),
        ("'''datetime.now()'''\nclock.now()  # time.time()", []),
    ],
)
def test_what_python_may_not_name(source, names):
    assert sorted(what for _, what in reads_of(ast.parse(source))) == sorted(names)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("select 1 where at < now()", [(1, "now()")]),
        ("select 1\nwhere at < CURRENT_TIMESTAMP", [(2, "CURRENT_TIMESTAMP")]),
        ("update t set at = clock_timestamp ( )", [(1, "clock_timestamp ( )")]),
        ("select 'now'::timestamptz, date 'today'", [(1, "'now'::"), (1, "date 'today'")]),
        ("at timestamptz not null default now(), -- now()", []),
        ("/* now()\n now() */ select '-- ' || now()", [(2, "now()")]),
        ("select %(now)s, knownow, planned_now", []),
    ],
)
def test_what_sql_may_not_read(text, reads):
    assert list(sql_reads(text)) == reads


def test_sql_in_python_is_looked_at_and_docstrings_are_not():
    source = '"""now()"""\nQUERY = """\nselect now()"""\nBYTES = b"select now()"\nF = f"{x} < now()"\n'
    assert [line for line, _ in sql_reads_of(ast.parse(source))] == [3, 4, 5]
