"""`celery -A worker keys …`: show, reset and check the keys."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

import click
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from config.current import get_settings
from config.services import SERVICES
from worker.action_log import ActionLog
from worker.broker_errors import BROKER_ERRORS
from worker.cli import audit_listing, check_listing, key_changes, workdir
from worker.cli.chosen_key import NAMES, Pools, key_of, run_with_pools
from worker.cli.key_listing import listing
from worker.cli.output import OutputGroup
from worker.cli.plain_text import plain
from worker.cli.session import broker_failure, current_user, run
from worker.cli.usage import usage
from worker.deadletters import DeadLetters
from worker.key_reload import ask_workers, note_reload, sentence_of
from worker.keypool import HeldBlock, KeyPool, PoolView, ResetDone
from worker.providers.drift import Drift, Seen
from worker.rotation.key_checks import CheckedKey, check_keys, opened_checkers, problems_in
from worker.startup.redis import eviction_of

ResultT = TypeVar("ResultT")

_SERVICE = click.Choice(list(SERVICES))
_REPLY_TIMEOUT_S = 3.0


@click.group(name="keys", cls=OutputGroup)
def keys() -> None:
    """Show, reset, disable, enable and check the API keys that the workers rotate."""


for _command in (
    key_changes.disable,
    key_changes.enable,
    key_changes.note,
    key_changes.pause,
    key_changes.resume,
    usage,
):
    keys.add_command(_command)
workdir.install()


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service; default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
def status(service: str | None, as_json: bool, watch: bool) -> None:  # noqa: FBT001
    """Show the state of each key and how much it was used.

    For a key that is not ready, the table has the reason and the time until the key is back. The
    column "room" shows how much is left of the limit that is nearest to exhaustion: requests or
    tokens a minute (rpm, tpm) or a day (rpd, tpd), requests a second (rps), emails a day or a month
    (epd, epmo).
    """

    async def read(pools: dict[str, KeyPool]) -> list[PoolView]:
        return [await pool.snapshot() for pool in pools.values()]

    async def follow(pools: dict[str, KeyPool]) -> None:
        console = Console()
        if not console.is_terminal:  # nothing can be redrawn, so each state is printed
            while True:
                console.print(listing(await read(pools)))
                await asyncio.sleep(1)
        with Live(listing(await read(pools)), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(1)
                live.update(listing(await read(pools)), refresh=True)

    if watch and as_json:
        raise click.UsageError("choose one of --watch and --json")
    if watch:
        with suppress(KeyboardInterrupt):
            run_with_pools(follow, service)
        return
    views = run_with_pools(read, service)
    if evicts := run(eviction_of, missing="{}"):
        click.echo(f"⚠️ {evicts.sentence}", err=True)
    if as_json:
        click.echo(json.dumps({view.service: view.as_json() for view in views}, indent=2))
    else:
        Console(highlight=False, markup=False).print(listing(views))


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service; default: all.")
@click.option(
    "--key",
    "key_id",
    help=f"Only this key: {NAMES}.",
)
@click.option("--include-disabled", is_flag=True, help="Reset keys that a person disabled, too.")
def reset(service: str | None, key_id: str | None, include_disabled: bool) -> None:  # noqa: FBT001
    """Bring back the keys that rest or were refused.

    Keys that a person disabled stay disabled, unless --key names one of them or --include-disabled
    is given.
    """

    async def clear(pools: dict[str, KeyPool]) -> dict[str, ResetDone]:
        named, concerned = _named(key_id, pools)
        return {
            name: await pool.reset(
                by=f"cli {current_user()}", key_id=named, include_disabled=include_disabled
            )
            for name, pool in concerned.items()
        }

    for name, done in run_with_pools(clear, service).items():
        plural = "block" if done.count == 1 else "blocks"
        click.echo(f"🔄 {name.capitalize()} failed keys reset ({done.count} {plural} cleared)")
        for block in done.brought_back:
            click.echo(f"   back: {_held(block)}")
        for block in done.left_disabled:
            click.echo(
                f"   still out: {_held(block)}; `--include-disabled` or `--key {block.key}` "
                "brings it back"
            )


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service; default: all.")
@click.option(
    "--count",
    default=30,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="How many entries of each service to show.",
)
@click.option(
    "--people",
    is_flag=True,
    help="Show only what people and programs did, such as resets.",
)
def audit(service: str | None, count: int, people: bool) -> None:  # noqa: FBT001
    """Show what happened to the keys and what people did, the latest first.

    With --service, cancelled jobs and what people did to workers are left out.
    """

    async def read_keys(pools: dict[str, KeyPool]) -> dict[str, list[dict[str, str]]]:
        return {
            name: await pool.audit(count=count, people_only=people) for name, pool in pools.items()
        }

    async def read_others(redis: Redis) -> list[dict[str, str]]:
        settings = get_settings()
        actions = ActionLog(redis, namespace=settings.namespace)
        letters = DeadLetters.of(redis, settings)
        return await actions.read(count=count) + await letters.audit(count=count)

    entries = run_with_pools(read_keys, service)
    for entry in run(read_others, missing="{}"):
        if service in {None, entry["service"]}:
            entries.setdefault(entry["service"], []).append(entry)
    Console(highlight=False, markup=False).print(audit_listing.listing(entries))


@keys.command()
@click.option("--service", type=_SERVICE, help="Only this service; default: all.")
@click.option("--key", "key_id", help=f"Only this key: {NAMES}.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def check(
    ctx: click.Context,
    service: str | None,
    key_id: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Ask the providers about each key.

    The command shows whether the provider accepts a key, and the models and limits of the key. A
    check costs no completion and no email. The exit status is 1 if a key is rejected or could not
    be checked, or if no key may use one of the models of GROQ_MODEL.
    """
    settings = get_settings()

    async def run_checks(pools: dict[str, KeyPool]) -> list[CheckedKey]:
        async with opened_checkers(settings) as checkers:
            with suppress(RedisError):  # the accounts that Redis knows are not essential
                await asyncio.gather(*(pool.snapshot() for pool in pools.values()))
            named, concerned = _named(key_id, pools)
            return await check_keys(concerned, checkers, models=settings.models, key_id=named)

    checked = run_with_pools(run_checks, service)
    # The check of one key cannot show that no key may use a model.
    problems = list(problems_in(checked, models={} if key_id else settings.models))
    if as_json:
        values = {"keys": [key.as_json() for key in checked], "problems": problems}
        click.echo(json.dumps(values, indent=2))
    else:
        Console(highlight=False, markup=False).print(check_listing.listing(checked))
        for sentence in problems or [
            "the provider accepts the key"
            if key_id
            else "the providers accept every key that is configured here"
        ]:
            click.echo(sentence)
    if problems:
        ctx.exit(1)


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--forget", is_flag=True, help="Clear the list after showing it.")
def drift(as_json: bool, forget: bool) -> None:  # noqa: FBT001
    """Show provider answers that this version does not know.

    The latest come first. A general rule handles each of them, so jobs go on. An unknown answer may
    mean that the provider has changed: look for a newer version.
    """

    async def read(redis: Redis) -> list[Seen]:
        namespace = get_settings().namespace
        answers = Drift(redis, namespace=namespace)
        seen = await answers.seen()
        if forget and seen:
            await answers.forget()
            await ActionLog(redis, namespace=namespace).add(
                "forgotten",
                scope="unknown_answers",
                name=str(len(seen)),
                by=f"cli {current_user()}",
            )
        return seen

    seen = run(read, missing="{}")
    if as_json:
        click.echo(json.dumps([answer.as_json() for answer in seen], indent=2))
        return
    if not seen:
        click.echo("nothing unknown: this version knew every answer")
        return
    table = Table(
        "last (UTC)",
        "first (UTC)",
        "service",
        "kind",
        "count",
        Column("shape", overflow="fold"),
    )
    for answer in seen:
        table.add_row(
            _when(answer.last_ms),
            _when(answer.first_ms),
            answer.service,
            answer.kind.replace("_", " "),
            str(answer.count),
            escape(answer.shape),
        )
    Console().print(table)


@keys.command()
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Have every running worker load its API keys again.

    A worker loads them from its environment and from `.env`.
    """
    try:
        answers = ask_workers(ctx.obj.app, timeout_s=_REPLY_TIMEOUT_S)
    except BROKER_ERRORS as exc:
        raise broker_failure(exc) from exc
    for worker, answer in answers.items():
        click.echo(f"{worker}: {sentence_of(answer)}")
    by = f"cli {current_user()}"
    run_with_pools(lambda pools: note_reload(pools.values(), answers, by=by), None)
    if not answers:
        raise click.ClickException("no worker answered; is one running?")


def _named(key_id: str | None, pools: Pools) -> tuple[str | None, Pools]:
    """Return the id of the key that a person names, with its pool; without a name, all pools."""
    if not key_id:
        return None, pools
    key = key_of(key_id, pools.values())
    return key.id, {key.service: pools[key.service]}


def _when(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _held(block: HeldBlock) -> str:
    by = f" by {block.disabled_by}" if block.disabled_by else ""
    scope, reason = block.scope.replace("_", " × "), block.reason.replace("_", " ")
    return plain(f"{scope} {block.name}, {block.state}{by}: {reason}")
