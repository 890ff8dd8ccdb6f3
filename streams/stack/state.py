"""What a home remembers between starts: `stack.json`, the key file, folders and who owns them.

`stack.json` has the field names of `streams.settings.Settings`, so that every program finds the stack by its home.
Its one further entry, `embedded`, is for the supervisor: ports, passwords of its own, the Kafka cluster id.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import secrets
import shutil
import stat
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from schemas.problems import Problem
from streams import settings
from streams.stack import ports

PORTS: Final = (
    "postgres",
    "kafka",
    "kafka_controller",
    "connect",
    "registry",
    "registry_management",
    "gateway",
)
ROLES: Final = {
    "admin": "postgres",
    "owner": "syncline_owner",
    "app": "syncline_app",
    "applier": "syncline_applier",
    "capture": "syncline_capture",
}
"""Role of a DSN in the settings → login role in Postgres."""
REGISTRY_ROLE: Final = "syncline_registry"
DATABASE: Final = "canon"
REGISTRY_DATABASE: Final = "registry"
CONNECT_SECRETS: Final = "connect-secrets.properties"
"""What connectors may read with Connect's file provider."""
ACCOUNTS: Final = ("nobody", "postgres", "daemon")
"""Accounts Postgres may run under when the stack is started by root; the first that exists."""


@dataclass(frozen=True, slots=True)
class Home:
    """Places under a home."""

    path: Path

    @property
    def description(self) -> Path:
        """The file that `streams.settings` reads."""
        return self.path / "stack.json"

    @property
    def key(self) -> Path:
        """The key-encryption key."""
        return self.path / "key"

    @property
    def run(self) -> Path:
        """Process files, the lock and the control socket."""
        return self.path / "run"

    @property
    def config(self) -> Path:
        """Configuration files, written anew at every start."""
        return self.path / "config"

    @property
    def temporary(self) -> Path:
        """What Java unpacks; what a killed one left is removed at the next start."""
        return self.path / "tmp"

    def data(self, component: str) -> Path:
        """Where a component keeps what must survive."""
        return self.path / component

    def log(self, component: str) -> Path:
        """Standard output and error of a component."""
        return self.path / "logs" / f"{component}.log"

    def create(self) -> None:
        """Make the folders; others may pass through the home (Postgres' account must) but not read it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o711)
        for folder in (self.run, self.config, self.path / "logs"):
            folder.mkdir(mode=0o700, exist_ok=True)

    def empty_temporary(self) -> None:
        """Call it while nothing runs."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Remove what the stack and Syncline's processes made, by name: the user's own things may lie beside it."""
        for folder in ("postgres", "kafka", "config", "logs", "run", "tables", "tmp"):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        errors = self.path.glob("syncline-error-*.log")
        for file in (self.description, self.key, self.path / CONNECT_SECRETS, self.path / "postgres.pw", *errors):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


@dataclass(slots=True)
class Embedded:
    """What the supervisor itself needs to know again at the next start."""

    ports: dict[str, int]
    passwords: dict[str, str]
    """By Postgres role."""
    cluster_id: str
    gateway_token: str
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def new(cls, home: Home) -> Self:
        """Choose ports and passwords for a home that has none."""
        # The home people get without naming one has the gateway at the documented port.
        preferred = {"gateway": 8321} if home.path == settings.default_home() else {}
        roles = (*ROLES.values(), REGISTRY_ROLE)
        return cls(
            ports=ports.choose(PORTS, preferred),
            passwords={role: secrets.token_urlsafe(24) for role in roles},
            cluster_id=new_cluster_id(),
            gateway_token=secrets.token_urlsafe(32),
        )

    def described(self) -> dict[str, Any]:
        """The content of stack.json."""
        host = ports.LOOPBACK
        dsns = {
            f"postgres_{name}_dsn": f"postgresql://{role}:{self.passwords[role]}@{host}:{self.ports['postgres']}/{DATABASE}"
            for name, role in ROLES.items()
        }
        return dsns | {
            "kafka_bootstrap": f"{host}:{self.ports['kafka']}",
            "connect_url": f"http://{host}:{self.ports['connect']}",
            "registry_url": f"http://{host}:{self.ports['registry']}",
            "gateway_host": host,
            "gateway_port": self.ports["gateway"],
            "gateway_token": self.gateway_token,
            "embedded": asdict(self),
        }


def new_cluster_id() -> str:
    """An id as Kafka makes them; like Kafka's, never one that looks like an option."""
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


def load_or_create(home: Home) -> Embedded:
    """Read what the home remembers, or start remembering.

    Raises:
        Problem: `home_damaged` when stack.json is there and cannot be read.
    """
    home.create()
    if not home.key.exists():
        write_private(home.key, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    if not home.description.exists():
        embedded = Embedded.new(home)
        save(home, embedded)
        return embedded
    return load(home)


def load(home: Home) -> Embedded:
    """Read what an existing home remembers."""
    try:
        return Embedded(**json.loads(home.description.read_text())["embedded"])
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(
            "home_damaged",
            f"{home.description} was not written by this stack: {error}",
            "Name another home with --home, or remove this one with `syncline down --wipe`.",
        ) from error


def save(home: Home, embedded: Embedded) -> None:
    """Write stack.json, readable by its owner only: it holds every password."""
    described = embedded.described() | {"key_file": str(home.key)}
    write_private(home.description, json.dumps(described, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, never readable by others, not even for a moment."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def postgres_account(home: Home) -> tuple[int, int] | None:
    """The (uid, gid) Postgres runs under, None for the user who started the stack.

    Raises:
        Problem: `no_account` when root has no other account to give it to.
    """
    if os.geteuid() != 0:
        return None
    data = home.data("postgres")
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid  # keep to the account that made the data
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise Problem("no_account", f"Postgres does not run as root, and there is none of {', '.join(ACCOUNTS)}")


def check_reachable(path: Path, account: tuple[int, int] | None, what: str) -> None:
    """Make sure that the account can pass every folder above `path`.

    Raises:
        Problem: `unreachable`, naming the folder that is closed.
    """
    if account is None:
        return
    for folder in [path, *path.parents][::-1]:
        if not folder.exists():
            return
        if not folder.stat().st_mode & stat.S_IXOTH and folder.stat().st_uid != account[0]:
            raise Problem(
                "unreachable",
                f"Postgres runs under uid {account[0]} here, which cannot enter {folder} on the way to {what} {path}",
                "Choose a place every account may pass through: --home or SYNCLINE_HOME, SYNCLINE_CACHE.",
            )
