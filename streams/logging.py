"""Structured logs of every process: JSON for programs, columns for a person at a terminal. No personal data.

Events are short names, facts are fields. Libraries' own log lines pass through the same renderer; those that would
print record values (Faust's at DEBUG) are kept at WARNING.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import structlog

QUIET = {
    "faust": logging.WARNING,
    "faust.transport.producer": logging.ERROR,  # warns of every full buffer, which is how it slows us down
    "mode": logging.ERROR,
    "aiokafka": logging.ERROR,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "asyncio": logging.ERROR,
    "procrastinate": logging.WARNING,
}


def _trace(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Where an exception came from, without its message: a database error quotes the row it is about."""
    error = event.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        event["error"] = type(error).__name__
        event["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def configure(level: str = "info", *, json: bool | None = None) -> None:
    """Set up logging for the process.

    Args:
        level: lowest level shown.
        json: one JSON object per line; None: unless standard error is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    render: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _trace,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(max(least, root.level))
