"""`celery -A worker keys status --watch`: each new state is drawn at once."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from worker.cli import keys

STATES = ["first", "second", "third"]


@pytest.mark.parametrize("output", [{"FORCE_COLOR": "1", "TERM": "xterm"}, {}])
def test_watching_shows_each_new_state_until_it_is_interrupted(
    output: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    states, pauses = iter(STATES), iter([None, None])

    async def sleep(_seconds: float) -> None:
        try:
            next(pauses)
        except StopIteration:
            raise KeyboardInterrupt from None

    def run_without_redis(
        command: Callable[[dict[str, Any]], Coroutine[Any, Any, None]], _service: str | None
    ) -> None:
        asyncio.run(command({}))

    monkeypatch.setattr(keys, "run_with_pools", run_without_redis)
    monkeypatch.setattr(keys, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(keys, "listing", lambda _: next(states))
    result = CliRunner().invoke(keys.keys, ["status", "--watch"], env=output)
    assert result.exception is None
    assert [state for state in STATES if state in result.output] == STATES


def test_watching_and_json_are_refused_together() -> None:
    result = CliRunner().invoke(keys.keys, ["status", "--watch", "--json"])
    assert result.exit_code == 2
    assert "choose one of --watch and --json" in result.output
