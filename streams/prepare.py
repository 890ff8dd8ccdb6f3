"""What must be there before workers start: the schema, the topics, the connector. Quick when nothing is missing.

Called by `syncline up` when the stack is ready, and by the demo; each step is a command of its own as well.
"""

from __future__ import annotations

import asyncio

from streams import capture, topics
from streams.settings import Settings
from streams.store.migrate import migrate, model_of


def prepare(settings: Settings) -> None:
    """Migrate, make topics, apply the connector.

    Raises:
        Problem: of the step that failed.
    """
    migrate(settings)
    table = topics.table(model_of(settings).order)
    topics.ensure(settings.kafka_bootstrap, partitions=settings.kafka_partitions, topics=table)
    asyncio.run(capture.ensure(settings))
