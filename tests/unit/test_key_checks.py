"""When a worker checks its keys, and its reaction to the answers.

The providers' answers: `tests/integration/test_key_checks.py`.
"""

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.exceptions import ConnectionError as LostError

from config.api_key import make_key
from worker.providers.key_check import KeyCheck
from worker.rotation import key_checks
from worker.rotation.key_checks import KeyChecks, check_keys
from worker.verdicts import ASKED, Dimension, Fate, ObservedLimit

KEYS = [make_key("groq", secret=f"gsk_{n:046}", variable=f"GROQ_{n}") for n in range(2)]
LIMITS = (ObservedLimit(Dimension.RPM, 30),)


class Bench:
    def __init__(self, key_check: KeyCheck) -> None:
        self.pool: Any = SimpleNamespace(
            keys=KEYS, account_of=lambda key: f"account of {key.id}", settle=AsyncMock()
        )
        self.checker: Any = SimpleNamespace(check=AsyncMock(return_value=key_check))

    def checks(self, every_s: float = 3_600.0) -> KeyChecks:
        return KeyChecks(
            {"groq": self.pool}, {"groq": self.checker}, models={"groq": ["m"]}, every_s=every_s
        )


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_worker_checks_its_keys_at_intervals_and_at_once_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, spreads, pauses = Bench(KeyCheck("alive")), list[Any](), list[float | None]()
    timeout = asyncio.timeout

    def noted(pause_s: float | None) -> AbstractAsyncContextManager[Any]:
        pauses.append(pause_s)
        return timeout(0.0 if len(pauses) == 1 else 3_600.0)

    def uniform(least: float, most: float) -> float:
        spreads.append((least, most))
        return least

    monkeypatch.setattr(key_checks.random, "uniform", uniform)
    monkeypatch.setattr("worker.rotation.key_checks.asyncio.timeout", noted)
    checks = bench.checks()
    running = asyncio.ensure_future(checks.run())
    await turns()
    assert bench.checker.check.await_count == 2 * len(KEYS), "the first interval is over"
    assert spreads == [(0, 2.0), (0.9, 1.1), (0.9, 1.1)]
    assert pauses == [3_600 * 0.9] * 2
    for times in (3, 4):
        checks.again()
        await turns()
        assert bench.checker.check.await_count == times * len(KEYS)
    assert not running.done()
    bench.checker.check.side_effect = ValueError("a bug")
    checks.again()
    with pytest.raises(ValueError, match="a bug"):
        await running


async def test_an_interval_of_zero_turns_the_checks_off() -> None:
    bench = Bench(KeyCheck("alive"))
    await asyncio.wait_for(bench.checks(every_s=0).run(), 10)
    bench.checker.check.assert_not_awaited()


async def test_the_pool_learns_the_limits_of_each_key_and_nothing_else() -> None:
    bench = Bench(KeyCheck("alive", limits=LIMITS))
    await bench.checks().once()
    settled = [call.args for call in bench.pool.settle.await_args_list]
    assert [(lease.key, lease.account, lease.wait_ms) for lease, _ in settled] == [
        (key, f"account of {key.id}", 0) for key in KEYS
    ]
    assert len({lease.id for lease, _ in settled}) == 2
    assert all(len(lease.id) == 32 for lease, _ in settled), "the pool has no such lease"
    assert [(verdict.fate, verdict.code, verdict.limits) for _, verdict in settled] == [
        (Fate.DONE, ASKED, LIMITS)
    ] * 2
    silent = Bench(KeyCheck("alive"))
    await silent.checks().once()
    silent.pool.settle.assert_not_awaited()


async def test_limits_that_cannot_be_stored_are_logged_and_a_bug_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(KeyCheck("alive", limits=LIMITS))
    bench.pool.settle.side_effect = LostError("canary")
    with caplog.at_level(logging.DEBUG, "worker"):
        await bench.checks().once()
    line = "cannot store the limits that a key check found: ConnectionError"
    assert caplog.messages == [line] * 2
    bench.pool.settle.side_effect = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        await bench.checks().once()


async def test_a_problem_is_logged_again_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(KeyCheck("dead", "no"))
    checks = bench.checks()
    for state, lines in (("dead", 1), ("dead", 1), ("alive", 1), ("dead", 2)):
        bench.checker.check.return_value = KeyCheck(state, "no")  # type: ignore[arg-type]
        await checks.once()
        assert len(caplog.messages) == lines


@pytest.mark.parametrize(("key_id", "count"), [(None, 2), (KEYS[1].id, 1)])
async def test_one_key_can_be_checked_alone(key_id: str | None, count: int) -> None:
    bench = Bench(KeyCheck("alive", models=frozenset({"m"})))
    checked = await check_keys(
        {"groq": bench.pool}, {"groq": bench.checker}, models={"groq": ["m", "n"]}, key_id=key_id
    )
    assert [each.key for each in checked] == KEYS[-count:]
    assert [each.models for each in checked] == [{"m": True, "n": False}] * count
    with pytest.raises(KeyError):
        await check_keys({"groq": bench.pool}, {"groq": bench.checker}, models={}, key_id="x")
