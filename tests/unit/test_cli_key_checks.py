"""The requests of `keys check` and `keys reload`, and their output."""

import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import RedisError

from config.services import SERVICES
from tests.unit.cli_runner import KEYS, run_command, use_no_redis
from worker.cli import chosen_key, keys
from worker.providers.key_check import KeyCheck
from worker.rotation.key_checks import CheckedKey
from worker.verdicts import Dimension, ObservedLimit


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_no_redis(monkeypatch, chosen_key, keys)
    monkeypatch.setattr(keys, "current_user", lambda: "ann")


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Checks keys: `problems` has the scripted results, `calls` the checked keys."""
    checked = SimpleNamespace(problems=[], calls=[], closed=0, seen=[])
    settings = SimpleNamespace(models={"groq": ("m",)})

    async def gone() -> None:
        checked.seen.append("a pool")
        raise RedisError("the accounts are not essential")

    pools = {
        name: SimpleNamespace(service=name, keys=(key,), snapshot=gone)
        for name, key in KEYS.items()
    }

    @asynccontextmanager
    async def opened(given: Any) -> Any:
        assert given is settings
        yield "the checkers"
        checked.closed += 1

    async def check_keys(concerned: Any, checkers: Any, *, models: Any, key_id: Any) -> Any:
        checked.calls.append((list(concerned), checkers, models, key_id))
        check = KeyCheck("alive", limits=(ObservedLimit(Dimension.RPM, 30),))
        return [CheckedKey("groq", KEYS["groq"], "acme", check, {"m": True})]

    def problems_in(_: Any, *, models: Any) -> list[str]:
        checked.calls.append(models)
        return checked.problems

    monkeypatch.setattr(chosen_key, "pools_for_tools", lambda _, services: {
        name: pools[name] for name in services
    })  # fmt: skip
    monkeypatch.setattr(keys, "get_settings", lambda: settings)
    monkeypatch.setattr(keys, "opened_checkers", opened)
    monkeypatch.setattr(keys, "check_keys", check_keys)
    monkeypatch.setattr(keys, "problems_in", problems_in)
    yield checked
    assert checked.closed > 0


def test_every_key_is_checked_and_the_exit_status_is_1_if_one_cannot_serve(
    checking: Any,
) -> None:
    result = run_command(keys.keys, "check")
    models = {"groq": ("m",)}
    assert checking.calls == [(list(SERVICES), "the checkers", models, None), models]
    assert checking.seen == ["a pool"] * len(SERVICES)
    assert result.exit_code == 0
    assert KEYS["groq"].id in result.output
    assert result.output.splitlines()[-1] == (
        "the providers accept every key that is configured here"
    )
    checking.problems = ["the first", "the second"]
    result = run_command(keys.keys, "check")
    assert result.exit_code == 1
    assert result.output.splitlines()[-2:] == checking.problems


def test_a_check_of_one_key_reports_no_problems_of_the_others(checking: Any) -> None:
    result = run_command(keys.keys, "check", "--key", "RESEND_API_KEY", "--json")
    assert checking.calls == [
        (["resend"], "the checkers", {"groq": ("m",)}, KEYS["resend"].id), {}
    ]  # fmt: skip
    shown_json = json.loads(result.output)
    assert (shown_json["problems"], [key["key"] for key in shown_json["keys"]]) == (
        [],
        [KEYS["groq"].label],
    )
    assert run_command(keys.keys, "check", "--key", "RESEND_API_KEY").output.splitlines()[-1] == (
        "the provider accepts the key"
    )


@pytest.mark.parametrize(
    ("answers", "lines"),
    [
        (
            {"w1@a": {"ok": "2 groq keys"}, "w2@a": {"error": "none"}},
            ["w1@a: 2 groq keys", "w2@a: none"],
        ),
        ({}, ["Error: no worker answered; is one running?"]),
    ],
)
def test_a_reload_asks_the_workers_and_is_noted(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], lines: list[str]
) -> None:
    noted: list[Any] = []

    async def note(pools: Any, given: Any, *, by: str) -> None:
        noted.append((list(pools), given, by))

    def ask(app: str, *, timeout_s: float) -> Any:
        assert (app, timeout_s) == ("the app", 3.0)
        return answers

    monkeypatch.setattr(keys, "ask_workers", ask)
    monkeypatch.setattr(keys, "note_reload", note)
    monkeypatch.setattr(chosen_key, "pools_for_tools", lambda _, services: dict.fromkeys(services))
    result = run_command(keys.keys, "reload", app="the app")
    assert result.output.splitlines() == lines
    assert result.exit_code == (0 if answers else 1)
    assert noted == [([None] * len(SERVICES), answers, "cli ann")]
