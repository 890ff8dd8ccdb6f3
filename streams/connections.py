"""What may be done to a connection: the one service behind the CLI and the REST API.

Place in the flow: it writes `sync.connection`, `sync.credential` and `sync.webhook_endpoint` in one transaction, leaves
an audit row, raises the epoch and notifies `sync_connection` (payload `org/name`); the planner, the dispatcher, the
polls and the gateway read the result. Every function works inside a transaction of its own.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import httpx
from psycopg import AsyncConnection, sql
from pydantic import SecretStr

from connectors import config, registry
from connectors.contract import Client, Manifest
from schemas import model as models
from schemas.model import Model
from schemas.problems import Problem
from streams import choices as chosen
from streams import clock, vault
from streams.choices import Choices
from streams.settings import Settings
from streams.store import connection_changes, connections, credentials, queries, subscriptions
from streams.store.connections import Connection
from streams.store.migrate import model_of

_SQL = queries("connection_changes")
LONGEST_OVERLAP = timedelta(days=90)
"""How long a replaced webhook secret may stay valid at most."""

Conn = AsyncConnection[Any]
PlanAll = Callable[[Conn, str, str, Manifest, str], Awaitable[int]]
"""(database connection, org_id, connection name, manifest, reason) -> how many pushes were planned."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where they send their webhooks and how they sign them. Both values are secrets."""

    url: SecretStr
    secret: SecretStr


@dataclass(frozen=True, slots=True)
class Connected:
    """What connecting came to.

    Args:
        waiting: entity type -> living rows that nothing has pushed yet; `push --all` plans them.
        unread: places of settings that the adapter does not read, perhaps misspelt.
    """

    connection: Connection
    webhook: Webhook
    waiting: Mapping[str, int]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """What changing a connection came to.

    Args:
        names: what changed, as columns are named.
        released: pushes that waited for a gate which is open now.
    """

    connection: Connection
    names: tuple[str, ...]
    released: int = 0

    @property
    def needs_resync(self) -> bool:
        """Whether what they hold already follows only when it is planned again."""
        return bool(chosen.DECIDES & set(self.names))


@dataclass(frozen=True, slots=True)
class Service:
    """The acts on connections, on behalf of `actor`.

    Args:
        public_url: how external systems reach the gateway, without a slash at the end.
        actor: who asks, as audit rows name them: `cli:ann`, `api`.
        random: as `secrets.token_bytes`.
    """

    key: vault.Key
    public_url: str
    actor: str
    plan_all: PlanAll
    random: Callable[[int], bytes] = field(default=secrets.token_bytes, repr=False)
    model: Model = field(default_factory=models.load, repr=False)
    now: Callable[[], datetime] = field(default=clock.now, repr=False)

    async def connect(
        self, conn: Conn, org_id: str, name: str, given: config.ExternalSync, choices: Choices, *, update: bool = False
    ) -> Connected:
        """Connect an organisation to an external system; its gates open at once.

        A disconnected connection of that name comes back with its links; `update` changes a working one, whose webhook
        address and secret stay.

        Raises:
            Problem: `adapter_unknown` (No adapter available for type: X), `config_invalid`, `name_invalid`,
                `http_refused`, `address_refused`, `connection_exists`, `system_differs`, `type_not_taken` and those of
                `choices.checked`.
        """
        adapter = registry.find(given.type)
        manifest = adapter.manifest
        given = chosen.with_typed_secrets(given, adapter.settings)
        config.settings(given, adapter.settings)
        chosen.check_name(name)
        types = chosen.scope(manifest, choices.entity_types)
        async with conn.transaction():
            known = await self._known(conn, org_id, name, manifest, update=update)
            choices = chosen.filled(choices, known if update else None)
            choices = chosen.checked(manifest, self.model, choices, types)
            chosen.check_url(given.url, choices)
            await conn.execute(_SQL["upsert"], chosen.row(org_id, name, manifest, given, choices, types))
            await connection_changes.open_gates(conn, org_id, name, types, now=self.now())
            place = vault.Place(org_id, manifest.name, name, "")
            await self._set_secrets(conn, place, given.secrets)
            if known is None or known.state == "disconnected":
                await self._open_webhook(conn, place)
            await subscriptions.look_again(conn, org_id, name, now=self.now())
            detail = {"system": manifest.name, "option": choices.option, "types": types}
            await self._record(conn, org_id, "update" if known else "connect", name, detail)
            return Connected(
                await connections.load_connection(conn, org_id, name),
                await self._webhook(conn, place),
                await _count_rows(conn, org_id, types),
                config.unknown_fields(given, adapter.settings),
            )

    async def change(self, conn: Conn, org_id: str, name: str, changes: Mapping[str, Any]) -> Changed:
        """Change some choices of a connection; those that are not named stay.

        Args:
            changes: names of `Choices` with their new values; `filters`, `fields` and `gates` by entity type are put
                into what is there, an empty value takes the type's away.

        Raises:
            Problem: `connection_unknown`, `not_connected`, `http_refused`, `address_refused` and those of
                `choices.checked`.
        """
        async with conn.transaction():
            row = await connections.load_connection(conn, org_id, name, lock=True)
            if row.state == "disconnected":
                raise _not_connected(name)
            manifest = registry.find(row.system).manifest
            merged: dict[str, Any] = {
                k: {**getattr(row, k), **v} if k in chosen.BY_TYPE else v for k, v in changes.items()
            }
            gates = {root: gate for root, gate in merged.pop("gates", row.gates).items() if gate}
            chosen.check_gates(manifest, gates)
            choices = chosen.checked(manifest, self.model, replace(chosen.of(row), **merged), gates)
            chosen.check_url(row.url, choices)
            before, after = chosen.columns(chosen.of(row), row.gates), chosen.columns(choices, gates)
            if not (names := tuple(name for name in after if after[name] != before[name])):
                return Changed(row, ())
            place = {"org_id": org_id, "name": name}
            await conn.execute(_SQL["change"], place | chosen.as_parameters(after))
            opened = [root for root, gate in gates.items() if gate == "live"]
            released = await connection_changes.open_gates(conn, org_id, name, opened, now=self.now())
            await subscriptions.look_again(conn, org_id, name, now=self.now())
            await self._record(conn, org_id, "set", name, {name: after[name] for name in names})
            return Changed(await connections.load_connection(conn, org_id, name), names, released)

    async def pause(self, conn: Conn, org_id: str, name: str, reason: str = "paused by a person") -> Connection:
        """Send and poll nothing until `resume`; changes go on being planned, so nothing is lost."""
        return await self._set_state(conn, org_id, name, "pause", "paused", reason)

    async def resume(self, conn: Conn, org_id: str, name: str) -> Connection:
        """Go on after `pause`, or after Syncline paused it, for example for a refused credential."""
        return await self._set_state(conn, org_id, name, "resume", "active", None)

    async def disconnect(self, conn: Conn, org_id: str, name: str) -> Connection:
        """Stop for good: credentials are destroyed, webhooks refused; links stay, should it be connected again.

        Where we keep a webhook subscription at their side, the credentials that it takes to remove it are destroyed
        when that is done, see `streams.inbound.subscriptions`.
        """
        async with conn.transaction():
            changed = await self._set_state(
                conn, org_id, name, "disconnect", "disconnected", "disconnected by a person"
            )
            if await subscriptions.leave(conn, org_id, name, now=self.now()):
                await credentials.drop_webhook_secrets(conn, org_id, name)
            else:
                await credentials.destroy(conn, org_id, name)
            await conn.execute(_SQL["drop_endpoints"], {"org_id": org_id, "name": name})
        return changed

    async def reveal_webhook(self, conn: Conn, org_id: str, name: str) -> Webhook:
        """The webhook's address and secret, in the clear; the audit says who asked."""
        async with conn.transaction():
            row = await connections.load_connection(conn, org_id, name)
            found = await self._webhook(conn, vault.Place(org_id, row.system, name, ""))
            await self._audit(conn, org_id, "reveal_webhook", name, {})
        return found

    async def rotate_webhook(self, conn: Conn, org_id: str, name: str, overlap: timedelta) -> Webhook:
        """Make a new webhook secret; the one before stays valid for `overlap`, older ones end at once.

        Raises:
            Problem: `connection_unknown`, `not_connected`, `value_invalid` for a negative overlap or one over 90 days.
        """
        if not timedelta() <= overlap <= LONGEST_OVERLAP:
            raise Problem("value_invalid", f"the old secret can stay valid for 0 to {LONGEST_OVERLAP.days} days")
        async with conn.transaction():
            row = await connections.load_connection(conn, org_id, name, lock=True)
            if row.state == "disconnected":
                raise _not_connected(name)
            place, ends = vault.Place(org_id, row.system, name, ""), self.now() + overlap
            secret = self._webhook_secret()
            made = await credentials.rotate_webhook_secret(conn, self.key, place, secret, not_after=ends)
            await subscriptions.look_again(conn, org_id, name, now=self.now())
            await self._record(conn, org_id, "rotate_webhook", name, {"secret": made, "old_until": ends.isoformat()})
            return await self._webhook(conn, place)

    async def push_all(self, conn: Conn, org_id: str, name: str) -> int:
        """Plan a push of every row of the connection's types; how many were planned."""
        return await self._plan_all(conn, org_id, name, "push_all")

    async def resync(self, conn: Conn, org_id: str, name: str) -> int:
        """Plan every row of the connection's types anew, bulk changes and rows that left a filter too.

        What they hold already costs no call. Live changes go first.
        """
        return await self._plan_all(conn, org_id, name, "resync")

    async def _plan_all(self, conn: Conn, org_id: str, name: str, reason: str) -> int:
        async with conn.transaction():
            row = await connections.load_connection(conn, org_id, name)
            if row.state == "disconnected":
                raise _not_connected(name)
            count = await self.plan_all(conn, org_id, name, registry.find(row.system).manifest, reason)
            await self._audit(conn, org_id, reason, name, {"planned": count})
        return count

    async def _known(
        self, conn: Conn, org_id: str, name: str, manifest: Manifest, *, update: bool
    ) -> Connection | None:
        await conn.execute(_SQL["one_at_a_time"], {"org_id": org_id, "name": name})
        listed = {c.name: c for c in await connections.list_all(conn, org_id)}
        known = listed.get(name)
        if known and known.state != "disconnected" and not update:
            raise Problem(
                "connection_exists",
                f"the organisation {org_id} has a connection named {name} already ({known.system}, {known.state})",
                "Choose another --name, or change this one with --update.",
            )
        if known and known.system != manifest.name:
            raise Problem(
                "system_differs",
                f"{name} is a connection to {known.system}, and its links are records of that system",
                "Choose another --name for the new system.",
            )
        return known

    async def _set_state(
        self, conn: Conn, org_id: str, name: str, action: str, state: str, reason: str | None
    ) -> Connection:
        async with conn.transaction():
            row = await connections.load_connection(conn, org_id, name, lock=True)
            if row.state == "disconnected":
                raise _not_connected(name)
            await conn.execute(_SQL["set_state"], {"org_id": org_id, "name": name, "state": state, "reason": reason})
            await self._record(conn, org_id, action, name, {"reason": reason} if reason else {})
            return await connections.load_connection(conn, org_id, name)

    async def _set_secrets(self, conn: Conn, place: vault.Place, given: Mapping[str, SecretStr]) -> None:
        await credentials.keep_only(conn, place, set(given))
        for name, value in given.items():
            await credentials.put(conn, self.key, place.named(name), value)

    async def _open_webhook(self, conn: Conn, place: vault.Place) -> None:
        token = base64.urlsafe_b64encode(self.random(32)).rstrip(b"=").decode()
        await credentials.put(conn, self.key, place.named(credentials.WEBHOOK_TOKEN), SecretStr(token))
        await credentials.put(conn, self.key, place.named(f"{credentials.WEBHOOK_SECRET}1"), self._webhook_secret())
        await conn.execute(
            _SQL["add_endpoint"],
            {"hash": token_hash(token), "org_id": place.org_id, "name": place.connection},
        )

    def _webhook_secret(self) -> SecretStr:
        return SecretStr("whsec_" + base64.b64encode(self.random(24)).decode())

    async def _webhook(self, conn: Conn, place: vault.Place) -> Webhook:
        token = await credentials.get(conn, self.key, place.named(credentials.WEBHOOK_TOKEN))
        newest = await credentials.newest_webhook_secret(conn, self.key, place)
        return Webhook(SecretStr(f"{self.public_url}/hooks/{token.get_secret_value()}"), newest)

    async def _record(self, conn: Conn, org_id: str, action: str, name: str, detail: Mapping[str, object]) -> None:
        await self._audit(conn, org_id, action, name, detail)
        await connection_changes.notify(conn, org_id, name)

    async def _audit(self, conn: Conn, org_id: str, action: str, name: str, detail: Mapping[str, object]) -> None:
        await connection_changes.audit(conn, org_id, self.actor, f"connection.{action}", name, detail)


def service(settings: Settings, actor: str, plan_all: PlanAll) -> Service:
    """The service as the settings have it. Raises Problem (`key_missing`, `key_wrong`)."""
    public = settings.public_url or f"http://{settings.gateway_host}:{settings.gateway_port}"
    return Service(vault.load_key(settings), public.rstrip("/"), actor, plan_all, model=model_of(settings))


def open_client(connection: Connection, given: Mapping[str, SecretStr], http: httpx.AsyncClient) -> Client:
    """The adapter's client of a connection; `given` are its secrets (`credentials.adapter_secrets`).

    Raises:
        Problem: `adapter_unknown`, `config_invalid` when a secret is missing that the adapter requires.
    """
    adapter = registry.find(connection.system)
    plain = {name: str(value) for name, value in connection.settings.items()}
    stored = config.ExternalSync(
        connection.system, connection.url, connection.auth or config.AUTH_NONE, plain, dict(given)
    )
    return adapter.open(config.settings(stored, adapter.settings), http)


def token_hash(token: str) -> bytes:
    """What `sync.webhook_endpoint` keeps of a path token."""
    return hashlib.sha256(token.encode()).digest()


async def _count_rows(conn: Conn, org_id: str, types: Collection[str]) -> dict[str, int]:
    counts = {}
    for entity_type in types:
        statement = sql.SQL("select count(*) from canon.{} where org_id = %s and deleted_at is null")
        cursor = await conn.execute(statement.format(sql.Identifier(entity_type)), (org_id,))
        counts[entity_type] = (await cursor.fetchone() or (0,))[0]
    return counts


def _not_connected(name: str) -> Problem:
    return Problem("not_connected", f"{name} is disconnected", "Connect it again with `syncline connect`.")
