"""The gateway process: opens what it needs, serves, and on SIGTERM finishes the requests in hand before it closes."""

from __future__ import annotations

import asyncio
import signal

import uvicorn
import uvloop

from streams import logging, resources
from streams.gateway import app
from streams.inbound import publish
from streams.settings import Settings

GRACE_S = 10
BACKLOG = 2048
MOST_AT_ONCE = 2000
"""Connections; more are answered with 503."""


def run(settings: Settings) -> None:
    """Serve until a signal.

    Raises:
        Problem: what is missing, such as a key or a database connection.
    """
    logging.configure(settings.log_level)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    async with (
        resources.opened(settings) as opened,
        publish.opened(settings.kafka_bootstrap, opened.schemas) as publisher,
    ):
        server = uvicorn.Server(
            uvicorn.Config(
                app.create(opened, publisher),
                host=settings.gateway_host,
                port=settings.gateway_port,
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=MOST_AT_ONCE,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        # Uvicorn raises the signal again when it is done; what follows here must still happen.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)
        await server.serve()
