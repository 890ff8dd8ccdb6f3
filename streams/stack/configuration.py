"""The settings each part runs with, as text, from a site; the reasons stand beside them.

Used by `components` for this machine and for containers alike, so that both run the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.stack import state
from streams.stack.site import Site


def postgres_arguments(site: Site) -> tuple[str, ...]:
    """`-c` arguments rather than a file: they hold whatever the data folder's own configuration says."""
    values = {
        "listen_addresses": site.bind,
        "port": str(site.ports["postgres"]),
        "unix_socket_directories": site.sockets,
        "max_connections": "200",
        # The applier locks the match keys of all new people of a batch.
        "max_locks_per_transaction": "256",
        "shared_buffers": "256MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "wal_level": "logical",
        "max_wal_senders": "10",
        "max_replication_slots": "10",
        # Finite: a connector that is down for long must cost a resync, never the whole disk.
        "max_slot_wal_keep_size": "1GB",
        "password_encryption": "scram-sha-256",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_min_messages": "warning",
        # Parameters of statements are people's data.
        "log_parameter_max_length": "0",
        "log_parameter_max_length_on_error": "0",
    }
    return tuple(part for name, value in values.items() for part in ("-c", f"{name}={value}"))


def kafka(site: Site) -> str:
    """One broker that is its own controller."""
    broker, controller = site.ports["kafka"], site.ports["kafka_controller"]
    return _properties(
        {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"{site.hosts['kafka']}:{controller}",
            "listeners": f"PLAINTEXT://{site.bind}:{broker},CONTROLLER://{site.bind}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{site.address('kafka')},CONTROLLER://{site.hosts['kafka']}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": site.data("kafka"),
            # Topics are created with explicit settings; a mistyped name must fail, not become a topic.
            "auto.create.topics.enable": "false",
            "num.partitions": "1",
            "default.replication.factor": "1",
            "min.insync.replicas": "1",
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # One consumer per group starts alone here; waiting for more only delays it.
            "group.initial.rebalance.delay.ms": "0",
            "log.segment.bytes": str(256 << 20),
            # A sparse file per partition, but mapped: the default of 10 MiB adds up over hundreds of partitions.
            "log.index.size.max.bytes": str(2 << 20),
            "num.recovery.threads.per.data.dir": "2",
            "controlled.shutdown.max.retries": "1",
            "num.network.threads": "2",
            "num.io.threads": "4",
        }
    )


def connect(site: Site) -> str:
    """A distributed worker, alone in its group."""
    return _properties(
        {
            "bootstrap.servers": site.address("kafka"),
            "group.id": "syncline-connect",
            "config.storage.topic": "syncline.connect.configs",
            "offset.storage.topic": "syncline.connect.offsets",
            "status.storage.topic": "syncline.connect.status",
            "config.storage.replication.factor": "1",
            "offset.storage.replication.factor": "1",
            "status.storage.replication.factor": "1",
            "offset.storage.partitions": "4",
            "status.storage.partitions": "2",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "listeners": f"http://{site.bind}:{site.ports['connect']}",
            "rest.advertised.host.name": site.hosts["connect"],
            "rest.advertised.port": str(site.ports["connect"]),
            "plugin.path": f"{site.jars}/connect",
            # Scanning every class of every jar takes longer than all the rest of the start. The one plugin without
            # a service file, the converter, gets one when the folder is laid out (`installation`).
            "plugin.discovery": "service_load",
            # Connectors name a secret by its file, so that no password lies in a topic.
            "config.providers": "file",
            "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
            "config.providers.file.param.allowed.paths": f"{site.home}/{state.CONNECT_SECRETS}",
            "connector.client.config.override.policy": "All",
            # Off on purpose: consumers are idempotent, and transactions cost 95 ms p99 when idle.
            "exactly.once.source.support": "disabled",
            "offset.flush.interval.ms": "2000",
            # The default keeps a crashed worker's tasks unassigned for five minutes, waiting for its return.
            "scheduled.rebalance.max.delay.ms": "0",
            # The group waits this long for a worker that was killed; the broker allows no less.
            "session.timeout.ms": "6000",
            "heartbeat.interval.ms": "2000",
            "producer.max.request.size": str(8 << 20),
            "topic.creation.enable": "true",
        }
    )


def connect_secrets(site: Site) -> str:
    """What connectors read with the file provider."""
    return _properties({"capture_password": site.passwords[state.ROLES["capture"]]})


def registry(site: Site) -> Mapping[str, str]:
    """Environment of Apicurio Registry; its storage is a database of its own."""
    database = f"{site.address('postgres')}/{state.REGISTRY_DATABASE}"
    return {
        "QUARKUS_HTTP_HOST": site.bind,
        "QUARKUS_HTTP_PORT": str(site.ports["registry"]),
        # Else 0.0.0.0:9000, and it stops when that is taken.
        "QUARKUS_MANAGEMENT_HOST": site.bind,
        "QUARKUS_MANAGEMENT_PORT": str(site.ports["registry_management"]),
        "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
        "QUARKUS_OTEL_SDK_DISABLED": "true",
        # In memory by default: schema ids would change at a restart while topics live on.
        "APICURIO_STORAGE_KIND": "sql",
        "APICURIO_STORAGE_SQL_KIND": "postgresql",
        "APICURIO_DATASOURCE_URL": f"jdbc:postgresql://{database}",
        "APICURIO_DATASOURCE_USERNAME": state.REGISTRY_ROLE,
        "APICURIO_DATASOURCE_PASSWORD": site.passwords[state.REGISTRY_ROLE],
        "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
        "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
        "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "10",
    }


def log4j() -> str:
    """Logging of Kafka and Connect: to standard output, quiet except for what tells the story of a start."""
    return _properties(
        {
            "status": "error",
            "appender.console.type": "Console",
            "appender.console.name": "console",
            "appender.console.layout.type": "PatternLayout",
            "appender.console.layout.pattern": "%d{ISO8601} %-5p %c{1}: %m%n",
            "rootLogger.level": "warn",
            "rootLogger.appenderRef.console.ref": "console",
            "logger.server.name": "kafka.server.KafkaRaftServer",
            "logger.server.level": "info",
            "logger.herder.name": "org.apache.kafka.connect.runtime.distributed.DistributedHerder",
            "logger.herder.level": "info",
            "logger.debezium.name": "io.debezium",
            "logger.debezium.level": "info",
        }
    )


def _properties(values: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())
