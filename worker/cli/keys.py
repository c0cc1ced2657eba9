"""`celery -A worker keys …`: look at the keys, bring them back, take one out."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import click
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from config.keys import keys_named
from config.services import SERVICES
from config.settings import get_settings
from worker.cli import audit_listing
from worker.cli.key_listing import listing
from worker.cli.session import run, who, why
from worker.keypool import HeldBlock, KeyPool, PoolView, ResetDone
from worker.providers.drift import Drift, Seen
from worker.rotation.key_checks import CheckedKey, check_keys, opened_checkers, problems_in
from worker.runtime import pools_for_tools
from worker.startup.redis import eviction_of

ResultT = TypeVar("ResultT")

_SERVICE = click.Choice(list(SERVICES))
_REPLY_TIMEOUT_S = 3.0


@click.group(name="keys")
def keys() -> None:
    """Show and reset the API keys that the workers rotate."""


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service. Default: all.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
def status(service: str | None, as_json: bool, watch: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show each key's state, why, for how much longer, and its use.

    Room is what is left of the limit that is nearest to its end: requests or tokens a minute (rpm,
    tpm) or a day (rpd, tpd), requests a second (rps), emails a day or a month (epd, epmo).
    """

    async def look(pools: dict[str, KeyPool]) -> list[PoolView]:
        return [await pool.snapshot() for pool in pools.values()]

    async def follow(pools: dict[str, KeyPool]) -> None:
        with Live(listing(await look(pools)), console=Console(), auto_refresh=False) as live:
            while True:
                await asyncio.sleep(1)
                live.update(listing(await look(pools)), refresh=True)

    if watch:
        with suppress(KeyboardInterrupt):
            _run(follow, service)
        return
    views = _run(look, service)
    if evicts := run(eviction_of, missing="{}"):
        click.echo(f"⚠️ {evicts.sentence}", err=True)
    if as_json:
        click.echo(json.dumps({view.service: view.as_json() for view in views}, indent=2))
    else:
        Console(highlight=False, markup=False).print(listing(views))


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service. Default: all.")
@click.option(
    "--key",
    "key_id",
    help=(
        "Only this key: its id or the beginning of it, its label, or its variable's name; needs "
        "--service."
    ),
)
@click.option(
    "--include-disabled", is_flag=True, help="Bring back keys that a person disabled, too."
)
def reset(service: str | None, key_id: str | None, include_disabled: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Bring resting and refused keys back.

    Keys that a person disabled stay out, unless --key names one of them or --include-disabled is
    given.
    """
    if key_id and not service:
        raise click.UsageError("--key needs --service")

    async def clear(pools: dict[str, KeyPool]) -> dict[str, ResetDone]:
        return {
            name: await pool.reset(
                by=f"cli {who()}",
                key_id=_id_of(key_id, pool) if key_id else None,
                include_disabled=include_disabled,
            )
            for name, pool in pools.items()
        }

    for name, done in _run(clear, service).items():
        click.echo(
            f"🔄 {name.capitalize()} failed keys reset ({done.count} had rested or been disabled)"
        )
        for block in done.brought_back:
            click.echo(f"   back: {_held(block)}")
        for block in done.left_disabled:
            click.echo(
                f"   still out: {_held(block)}; `--include-disabled` or `--key {block.key}` "
                "brings it back"
            )


@keys.command()
@click.argument("key_id", metavar="KEY")
@click.option("--service", type=_SERVICE, required=True, help="The key's service.")
@click.option(
    "--reason", default="by hand", show_default=True, help="Why; goes to the audit trail."
)
def disable(key_id: str, service: str, reason: str) -> None:
    """Take the key KEY out until it is reset.

    Its id or the beginning of it, its label, or its variable's name.
    """

    async def take_out(pools: dict[str, KeyPool]) -> bool:
        return await pools[service].disable(
            _id_of(key_id, pools[service]), by=f"cli {who()}", reason=reason
        )

    click.echo("disabled" if _run(take_out, service) else "it was disabled already")


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service. Default: all.")
@click.option(
    "--count",
    default=30,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Entries a service.",
)
@click.option(
    "--people",
    is_flag=True,
    help="Only what people and programs asked for: resets, keys taken out.",
)
def audit(service: str | None, count: int, people: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show what happened to the keys, the latest first."""

    async def read(pools: dict[str, KeyPool]) -> dict[str, list[dict[str, str]]]:
        return {
            name: await pool.audit(count=count, people_only=people) for name, pool in pools.items()
        }

    Console(highlight=False, markup=False).print(audit_listing.listing(_run(read, service)))


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service. Default: all.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def check(ctx: click.Context, service: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Ask the providers about each key: is it alive, may it use GROQ_MODEL, what are its limits.

    Costs no completion and no email. The exit status is 1 where a key is dead or could not be
    checked, or where no key may use the model.
    """
    settings = get_settings()

    async def ask(pools: dict[str, KeyPool]) -> list[CheckedKey]:
        async with opened_checkers(settings) as checkers:
            with suppress(RedisError):  # the accounts that Redis knows are nice to have
                await asyncio.gather(*(pool.snapshot() for pool in pools.values()))
            return await check_keys(pools, checkers, models=settings.models)

    checked = _run(ask, service)
    problems = list(problems_in(checked, models=settings.models))
    if as_json:
        told = {"keys": [one.as_json() for one in checked], "problems": problems}
        click.echo(json.dumps(told, indent=2))
    else:
        Console().print(_checks(checked))
        for sentence in problems or ["every key that is configured here is alive"]:
            click.echo(sentence)
    if problems:
        ctx.exit(1)


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.option("--forget", is_flag=True, help="Begin anew, once what is shown is understood.")
def drift(as_json: bool, forget: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show what the providers answered that this version does not know, the latest first.

    Each is handled by a general rule, so jobs go on. It may mean that a provider has changed: look
    for a newer version.
    """

    async def look(redis: Redis) -> list[Seen]:
        found = Drift(redis, namespace=get_settings().namespace)
        seen = await found.seen()
        if forget:
            await found.forget()
        return seen

    seen = run(look, missing="{}")
    if as_json:
        click.echo(json.dumps([one.as_json() for one in seen], indent=2))
        return
    if not seen:
        click.echo("nothing unknown: every answer was one that this version knows")
        return
    table = Table(
        "last (UTC)",
        "first (UTC)",
        "service",
        "what",
        "count",
        Column("looks like", overflow="fold"),
    )
    for one in seen:
        table.add_row(
            _when(one.last_ms),
            _when(one.first_ms),
            one.service,
            one.kind.replace("_", " "),
            str(one.count),
            escape(one.shape),
        )
    Console().print(table)


@keys.command()
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Make every running worker find its API keys again, in its environment and `.env`."""
    try:
        replies = ctx.obj.app.control.broadcast("keys_reload", reply=True, timeout=_REPLY_TIMEOUT_S)
    except OperationalError as exc:
        url = get_settings().broker_url
        raise click.ClickException(f"the broker at {url} {why(exc)}") from exc
    if not replies:
        raise click.ClickException("no worker answered; is one running?")
    for reply in replies:
        for worker, answer in reply.items():
            click.echo(f"{worker}: {answer.get('ok') or answer.get('error')}")


def _id_of(text: str, pool: KeyPool) -> str:
    """The id of the key that a person means; `KeyError` where there is none."""
    found = keys_named(text, pool.keys)
    if len(found) > 1:
        several = ", ".join(f"{key.id} ({key.variable})" for key in found)
        raise click.ClickException(f"several keys are meant by {text}: say which, {several}")
    if not found:
        raise KeyError(text)
    return found[0].id


def _run(
    command: Callable[[dict[str, KeyPool]], Awaitable[ResultT]], service: str | None
) -> ResultT:
    return run(
        lambda redis: command(pools_for_tools(redis, [service] if service else SERVICES)),
        missing="no key here has the id, label or variable {}; `keys status` lists them",
    )


def _checks(checked: list[CheckedKey]) -> Table:
    table = Table(
        "service",
        "key",
        Column("id", no_wrap=True),
        "account",
        "state",
        "model",
        "limits",
        "what is told",
    )
    for one in checked:
        told = one.as_json()
        models = ", ".join(
            f"{model}: {'yes' if may else 'no'}" for model, may in one.models.items()
        )
        limits = ", ".join(f"{name}={limit}" for name, limit in told["limits"].items())
        fields = (
            one.service,
            one.key.label,
            one.key.id,
            one.account,
            one.check.state,
            models,
            limits,
            one.check.said,
        )
        table.add_row(*map(escape, fields))
    return table


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _held(block: HeldBlock) -> str:
    by = f" by {block.disabled_by}" if block.disabled_by else ""
    return f"{block.scope.replace('_', ' × ')} {block.name}, {block.state}{by}: {block.reason.replace('_', ' ')}"
