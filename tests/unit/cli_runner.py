"""Runs commands without a Redis."""

import asyncio
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from redis.asyncio import Redis

from config.api_key import make_key
from config.services import SERVICES
from tests.unit.sample_keys import GROQ, RESEND

KEYS = {
    name: make_key(name, secret=f"{name}-key", variable=f"{service.prefix}API_KEY")
    for name, service in SERVICES.items()
} | {
    "groq": make_key("groq", secret=GROQ, variable="GROQ_API_KEY"),
    "resend": make_key("resend", secret=RESEND, variable="RESEND_API_KEY"),
}


def as_a_session(command: Callable[[Any], Any], *, missing: str) -> Any:
    """A replacement of `session.run` that needs no Redis."""
    try:
        return asyncio.run(command(Redis()))
    except KeyError as exc:
        raise click.ClickException(missing.format(exc)) from exc


def use_no_redis(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    for module in modules:
        monkeypatch.setattr(module, "run", as_a_session)


def run_command(command: click.Command, *arguments: str, **obj: Any) -> Result:
    result = CliRunner().invoke(command, arguments, obj=SimpleNamespace(**obj))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
