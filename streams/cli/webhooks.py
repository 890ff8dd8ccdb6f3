"""`webhook`: how a connection hears from its system, and giving it a new secret."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli import session, show
from streams.cli.examples import examples

if TYPE_CHECKING:
    from streams.connections import Webhook

DAY_HOURS = 24


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="See how a connection hears of changes, and rotate its secret.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    group.command("show", epilog=examples("syncline webhook show clinic"))(show_)
    group.command(
        "rotate", epilog=examples("syncline webhook rotate clinic", "syncline webhook rotate clinic --overlap 0")
    )(rotate)
    app.add_typer(group, name="webhook")


def show_(name: session.Name, as_json: session.Json = False) -> None:
    """Show which secrets are valid and until when, and the subscription that Syncline keeps at their side.

    Shows no secret; `syncline connections webhook` reveals address and secret.
    """
    from streams.store import connections, credentials, subscriptions

    loaded = session.settings()

    async def work() -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        async with session.database(loaded) as conn:
            org, now = session.org(loaded), session.now()
            await connections.load_connection(conn, org, name)
            secrets = [
                {
                    "secret": each.name,
                    "valid": each.not_after is None or each.not_after > now,
                    "until": each.not_after,
                    "made": each.created_at,
                }
                for each in await credentials.list_names(conn, org, name)
                if each.name.startswith(credentials.WEBHOOK_SECRET)
            ]
            return secrets, (await subscriptions.shown(conn, org)).get(name)

    rows, subscription = session.run(work())
    if as_json:
        show.as_json({"secrets": rows, "subscription": subscription})
        return
    columns = {"secret": "SECRET", "valid": "VALID", "until": "UNTIL", "made": "MADE"}
    show.table(columns, rows, empty="It has no secrets: it is disconnected.")
    if subscription:
        show.say(f"subscription: {subscription['state']} since {show.cell(subscription['since'])}")


def rotate(
    name: session.Name,
    overlap: Annotated[
        int, typer.Option(min=0, metavar="HOURS", help="How long the old secret stays valid; 0 ends it at once.")
    ] = DAY_HOURS,
    as_json: session.Json = False,
) -> None:
    """Make a new webhook secret and reveal it.

    Both secrets are accepted until the overlap ends; enter the new one at the other system before. Where Syncline made
    the subscription itself, it hands the new secret over.
    """
    from streams.cli.connecting import service

    loaded = session.settings()

    async def work() -> Webhook:
        async with session.database(loaded) as conn:
            return await service(loaded).rotate_webhook(conn, session.org(loaded), name, timedelta(hours=overlap))

    reveal(session.run(work()), as_json=as_json)


def reveal(webhook: Webhook, *, as_json: bool) -> None:
    """Print a webhook's address and its secret."""
    told = {"url": webhook.url.get_secret_value(), "secret": webhook.secret.get_secret_value()}
    if as_json:
        show.as_json(told)
    else:
        show.pairs(told)
