"""`celery -A worker keys disable|enable|note|pause|resume`: change a key or a service by hand."""

import asyncio
import re
from typing import Any

import click

from config.services import SERVICES
from worker.cli.chosen_key import NAMES, Pools, key_of, run_with_pools
from worker.cli.key_listing import duration
from worker.cli.plain_text import PlainText
from worker.cli.session import current_user
from worker.keypool import Disabled, KeyPool
from worker.logs.redaction import redactor

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONGEST_S = 30 * 86_400
_LONGEST_NOTE = 200
_LOOK_S = 0.5

_service = click.option(
    "--service",
    type=click.Choice(list(SERVICES)),
    help="The key's service, if KEY fits keys of several services.",
)


_reason = click.option(
    "--reason",
    default="by hand",
    show_default=True,
    type=PlainText(),
    help="The reason, for the audit trail.",
)


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """A time such as `90s`, `45m`, `2h` or `1d`, converted to milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        parts = re.fullmatch(r"([0-9]{1,7})([smhd])", str(value))
        seconds = int(parts[1]) * _UNITS_S[parts[2]] if parts else 0
        if not 1 <= seconds <= _LONGEST_S:
            self.fail("give a time such as 90s, 45m, 2h or 1d, up to 30d", param, ctx)
        return seconds * 1000


@click.command()
@click.argument("key_id", metavar="KEY")
@_service
@_reason
@click.option(
    "--for",
    "for_ms",
    type=_Duration(),
    help="For how long, such as 90s, 45m, 2h or 1d; default: until `keys enable`.",
)
@click.option("--drain", is_flag=True, help="Wait until the key's calls in flight have ended.")
def disable(
    key_id: str, service: str | None, reason: str, for_ms: int | None, *, drain: bool
) -> None:
    """Disable the key KEY, for a time or until it is enabled.

    The key's calls in flight go on. KEY is the key's id or the beginning of it, its label, or the
    name of its variable.
    """

    async def disable_key(pools: Pools) -> str:
        key = key_of(key_id, pools.values())
        pool = pools[key.service]
        done = await pool.disable(
            key.id,
            by=f"cli {current_user()}",
            reason=redactor.redact(reason),
            for_ms=for_ms,
        )
        if drain:
            await _drained(pool, key.id)
        return _sentence(key.label, "disabled", done, end=f"`keys enable {key.id}` brings it back")

    click.echo(run_with_pools(disable_key, service))


@click.command()
@click.argument("service", type=click.Choice(list(SERVICES)))
@_reason
@click.option(
    "--for",
    "for_ms",
    type=_Duration(),
    help="For how long, such as 90s, 45m, 2h or 1d; default: until `keys resume`.",
)
def pause(service: str, reason: str, for_ms: int | None) -> None:
    """Pause SERVICE: no call to it begins, with any key.

    Its jobs wait in their queue. Calls in flight go on.
    """

    async def pause_service(pools: Pools) -> str:
        done = await pools[service].disable(
            None,
            by=f"cli {current_user()}",
            reason=redactor.redact(reason),
            for_ms=for_ms,
        )
        return _sentence(service, "paused", done, end=f"`keys resume {service}` ends it")

    click.echo(run_with_pools(pause_service, service))


@click.command()
@click.argument("service", type=click.Choice(list(SERVICES)))
def resume(service: str) -> None:
    """End the pause of SERVICE, and wake the jobs that wait."""

    async def resume_service(pools: Pools) -> str:
        newly = await pools[service].enable(None, by=f"cli {current_user()}")
        return f"{service} is resumed" if newly else f"{service} was not paused"

    click.echo(run_with_pools(resume_service, service))


def _sentence(name: str, state: str, done: Disabled, *, end: str) -> str:
    """Describe the outcome of disabling a key or pausing a service.

    Args:
        name: The key or the service.
        state: Its state now: disabled or paused.
        done: The change that was made.
        end: A clause that names the command to end this state.
    """
    before = done.before
    if done.stays and before is not None:
        return f"{name} was already {state} without an end, by {before.by} ({before.reason}); {end}"
    sentence = f"{name} is {state}"
    sentence += f"; {end}" if done.left_ms is None else f" for {duration(done.left_ms // 1000)}"
    if before is not None:
        left = duration(round((before.left_ms or 0) / 1000))
        sentence += f"; before this change, {left} were left, set by {before.by} ({before.reason})"
    elif not done.newly:
        sentence += "; the provider had already refused it"
    return sentence


async def _drained(pool: KeyPool, key_id: str) -> None:
    """Wait until no call with a key is in flight."""
    left = None
    while True:
        key = next(key for key in (await pool.snapshot()).keys if key.id == key_id)
        if not key.in_flight:
            return
        if left != key.in_flight:
            left = key.in_flight
            click.echo(
                f"{key.label}: {left} {'call' if left == 1 else 'calls'} in flight", err=True
            )
        await asyncio.sleep(_LOOK_S)


@click.command()
@click.argument("key_id", metavar="KEY")
@_service
def enable(key_id: str, service: str | None) -> None:
    """Bring back the key KEY, which a person disabled.

    To end a rest, or to bring back a key that the provider refused, use `keys reset`.
    """

    async def enable_key(pools: Pools) -> str:
        key = key_of(key_id, pools.values())
        newly = await pools[key.service].enable(key.id, by=f"cli {current_user()}")
        return f"{key.label} is enabled" if newly else f"{key.label}: no person had disabled it"

    click.echo(run_with_pools(enable_key, service))


@click.command(help=f"Keep the note TEXT on the key KEY; without TEXT remove it. KEY is {NAMES}.")
@click.argument("key_id", metavar="KEY")
@click.argument("text", default="")
@_service
def note(key_id: str, text: str, service: str | None) -> None:
    """Keep a note on a key."""
    words = redactor.redact(" ".join(text.split()))
    if len(words) > _LONGEST_NOTE or not words.isprintable():
        raise click.ClickException(f"a note is plain text of at most {_LONGEST_NOTE} characters")

    async def write_note(pools: Pools) -> str:
        key = key_of(key_id, pools.values())
        await pools[key.service].note(key.id, words, by=f"cli {current_user()}")
        return f"{key.label}: {words or 'the note is removed'}"

    click.echo(run_with_pools(write_note, service))
