"""What must be there before workers start: the schema, the topics, the connector. Idempotent, quick when nothing is missing.

Called by `syncline up` when the stack is ready, and by the demo; each step is a command of its own as well.
"""

from __future__ import annotations

import asyncio

from streams import capture, topics
from streams.settings import Settings
from streams.store.migrate import migrate


def prepare(settings: Settings) -> None:
    """Migrate, make topics, apply the connector.

    Raises:
        Problem: of the step that failed.
    """
    migrate(settings)
    topics.ensure(settings.kafka_bootstrap, partitions=settings.kafka_partitions)
    asyncio.run(capture.ensure(settings))
