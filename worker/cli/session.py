"""Runs our commands with a client of Redis, and reports their errors in one sentence."""

import asyncio
from collections.abc import Awaitable, Callable
from getpass import getuser
from typing import TypeVar

import click
from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.current import get_settings
from config.errors import SettingsError
from config.redis_roles import RedisUrls
from worker.aio.redis_retry import safe_message
from worker.broker_errors import BROKER_ERRORS
from worker.redis.client import connect
from worker.startup.rabbitmq import refusal_by_rabbitmq
from worker.startup.redis import refusal_at, refusal_of

ResultT = TypeVar("ResultT")


def run(command: Callable[[Redis], Awaitable[ResultT]], *, missing: str) -> ResultT:
    """Run a command with a client of the pool's Redis.

    Args:
        command: The command.
        missing: The sentence for a `KeyError`, with `{}` in place of the error's argument.

    Raises:
        click.ClickException: The settings are wrong, Redis or the broker does not answer, or the
            command raised a `KeyError`.
    """

    async def run_command() -> ResultT:
        redis: Redis = connect(get_settings())
        try:
            return await command(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run_command())
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc
    except RedisError as exc:
        url, full_url = get_settings().pool_url, RedisUrls.of(get_settings()).pool
        raise click.ClickException(f"Redis at {url} {failure_of(exc, url=full_url)}") from exc
    except BROKER_ERRORS as exc:
        raise broker_failure(exc) from exc
    except KeyError as exc:
        raise click.ClickException(missing.format(exc)) from exc


def broker_failure(exc: Exception) -> click.ClickException:
    """Return the error with which a command ends if the broker does not answer."""
    url, full_url = get_settings().broker_url, RedisUrls.of(get_settings()).broker_as_pool
    return click.ClickException(f"the broker at {url} {failure_of(exc, url=full_url)}")


def failure_of(exc: Exception, *, url: str = "") -> str:
    """Describe a failure in Redis' own words; if nothing listens, ask whether Redis runs.

    Args:
        exc: The failure.
        url: Redis' URL as redis-py reads it, which may explain the failure; empty for any other
            broker.
    """
    if (refused := refusal_by_rabbitmq(exc)) is not None:
        return refused
    words = safe_message(exc)
    hint = (
        ": is it running?" if "Connect call failed" in words or "refused" in words.lower() else ""
    )
    refusal = refusal_of(exc) if hint or not url else refusal_at(url, exc.__cause__ or exc)
    return f"{refusal or f'does not answer ({words})'}{hint}"


def current_user() -> str:
    """Return the name of the person at the terminal, for the audit trail."""
    try:
        return getuser()
    except (OSError, KeyError, ImportError):  # before Python 3.13, one of the last two is raised
        return "unknown user"
