"""What a user may change about the stack from outside: the download source and the Java runtime.

These are read by the supervisor only. How programs reach a running stack is `streams.settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MAVEN_CENTRAL: Final = "https://repo1.maven.org/maven2"


class StackOptions(BaseSettings):
    """Environment of the stack commands. Frozen; read once per command."""

    model_config = SettingsConfigDict(env_prefix="SYNCLINE_", frozen=True, extra="ignore", populate_by_name=True)

    maven_url: str = MAVEN_CENTRAL
    """Base URL of a Maven repository with Central's layout, for a mirror."""
    java: Path | None = None
    """A `java` program to use instead of the one that comes with the package."""
    java_home: Path | None = Field(default=None, validation_alias=AliasChoices("java_home", "JAVA_HOME"))
    """A Java runtime folder; used when `java` is not named."""
    download_threads: int = 6
