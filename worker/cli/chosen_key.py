"""Finds the key that a person names, and runs a command with the key pools."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import click

from config.api_key import ApiKey, keys_named
from config.services import SERVICES
from worker.cli.session import run
from worker.key_pools import pools_for_tools
from worker.keypool import KeyPool

ResultT = TypeVar("ResultT")
Pools = dict[str, KeyPool]

NAMES = "its id or the beginning of it, its label, or the name of its variable"
"""How a key may be named."""
NO_KEY = "no key here has the id, label or variable {}; `keys status` lists them"
"""The error for a name that no key has."""


def key_of(text: str, pools: Iterable[KeyPool]) -> ApiKey:
    """Find the one key that a person names, whichever service it belongs to.

    Raises:
        click.ClickException: Several keys fit.
        KeyError: No key fits.
    """
    found = [key for pool in pools for key in keys_named(text, pool.keys)]
    if len(found) > 1:
        several = ", ".join(f"{key.id} ({key.variable})" for key in found)
        raise click.ClickException(f"{text} fits several keys; give the id of one: {several}")
    if not found:
        raise KeyError(text)
    return found[0]


def run_with_pools(command: Callable[[Pools], Awaitable[ResultT]], service: str | None) -> ResultT:
    """Run a command with the key pool of one service; without a service, with all pools."""
    return run(
        lambda redis: command(pools_for_tools(redis, [service] if service else SERVICES)),
        missing=NO_KEY,
    )
