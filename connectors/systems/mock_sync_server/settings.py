"""The mock sync server's settings, from the `extraFields` DataCollect documents for it and ignores itself."""

from __future__ import annotations

from pydantic import Field, SecretStr

from connectors.config import Settings


class MockSyncSettings(Settings):
    """Settings of one connection.

    `retryAttempts` counts what comes after the first try of a batch, within one delivery; 0 by default, because the
    pipeline's own durable retries follow anyway. `delayBetweenBatches` holds per client, so per worker process.
    """

    batch_size: int = Field(default=100, ge=1, le=1000)
    """Most submissions in one POST."""
    retry_attempts: int = Field(default=0, ge=0, le=10)
    """More tries of a failed POST."""
    delay_between_batches: int = Field(default=0, ge=0, le=600_000)
    """Pause between two POSTs, ms."""
    username: str = ""
    password: SecretStr = SecretStr("")
    """With `auth: basic`. DataCollect's own mock client sends no credential."""
    api_key: SecretStr = SecretStr("")
    """With `auth: api-key`, sent as `X-Api-Key`."""
