"""The only reader of the environment. Order: `SYNCLINE_*` variables, then `HOME/stack.json` (written by the embedded
stack with exactly these field names), then the defaults below."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from schemas.problems import Problem


def default_home() -> Path:
    """Where the embedded stack keeps its state: `/var/lib/syncline` for root, else `~/.local/state/syncline`."""
    if named := os.environ.get("SYNCLINE_HOME"):
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/syncline")
    return Path(os.environ.get("XDG_STATE_HOME", "~/.local/state")).expanduser() / "syncline"


def default_cache() -> Path:
    """Where downloads are kept, shared by all homes: `/var/cache/syncline` for root, else `~/.cache/syncline`."""
    if named := os.environ.get("SYNCLINE_CACHE"):
        return Path(named).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/syncline")
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "syncline"


class Settings(BaseSettings):
    """How this process reaches its neighbours. Frozen; made once by the command that starts and handed on."""

    model_config = SettingsConfigDict(env_prefix="SYNCLINE_", frozen=True, extra="ignore")

    home: Path = Path()
    """State of the embedded stack, logs, the key file."""
    postgres_app_dsn: SecretStr | None = None
    """Role of workers and the gateway."""
    postgres_applier_dsn: SecretStr | None = None
    """Role that applies inbound events; only its writes may carry an origin."""
    postgres_owner_dsn: SecretStr | None = None
    """Role that owns the schemas and runs migrations."""
    postgres_admin_dsn: SecretStr | None = None
    """Superuser; creates the roles, the publication and the slot."""
    postgres_capture_dsn: SecretStr | None = None
    """Role of Debezium: REPLICATION, BYPASSRLS, reads the captured columns."""
    kafka_bootstrap: str = ""
    """`host:port` of a broker."""
    kafka_partitions: int = 12
    """Partitions of every cdc topic and of inbound.events; never changed after the first start."""
    connect_url: str = ""
    """REST API of Kafka Connect."""
    registry_url: str = ""
    """Base URL of Apicurio Registry; the Confluent API is under /apis/ccompat/v7."""
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8321
    gateway_token: SecretStr | None = None
    """Bearer token of the REST API."""
    public_url: str = ""
    """How external systems reach the gateway; empty: http://gateway_host:gateway_port."""
    key_file: Path | None = None
    """File with the key-encryption key, 32 bytes base64; empty: HOME/key."""
    org_id: str = "org_main"
    """Organisation that commands act for unless --org says otherwise."""
    log_level: str = "info"
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    """Where a worker tells Prometheus what it does; 0: it does not. The gateway tells the rest at /metrics."""
    sweep_every_s: float = Field(default=15.0, gt=0)
    """From one comparison of the tables with what was planned to the next, while capture is there."""
    deliveries_kept_days: int = Field(default=30, ge=1)
    """How long every call to an external system stays on record, with what it changed."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over the embedded stack's own description."""
        del dotenv_settings, file_secret_settings
        home = init_settings().get("home") or default_home()
        described = JsonConfigSettingsSource(settings_cls, json_file=home / "stack.json")
        return init_settings, env_settings, described

    def dsn(self, role: str) -> str:
        """The DSN of `role` (app, applier, owner, admin, capture).

        Raises:
            Problem: `not_configured` when neither the environment nor a stack names it.
        """
        secret: SecretStr | None = getattr(self, f"postgres_{role}_dsn")
        if secret is None:
            raise Problem(
                "not_configured",
                f"no database connection for the role `{role}` in {self.home} or SYNCLINE_POSTGRES_{role.upper()}_DSN",
                "Start the embedded stack with `syncline up`, or set the variable.",
            )
        return secret.get_secret_value()


def load(home: Path | None = None) -> Settings:
    """Read the settings once; `home` overrides SYNCLINE_HOME."""
    return Settings(home=home or default_home())
