"""Many jobs in an outage: a few of them probe, and all come back once a call has passed."""

from statistics import mean
from typing import Any
from unittest.mock import AsyncMock

import pytest
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own

from worker.aio.transport import delayed
from worker.jobs import outages as outages_module
from worker.jobs.outages import Outages

SERVICE = "groq"
WAITING = delayed.due_of("ai.deferred")
FAR_US = 9e15
CROWD = 20


async def waits_ms(
    outages: Outages, code: str, jobs: int = 300, models: tuple[str, ...] = ("a",)
) -> list[int]:
    return [await outages.countdown_ms(SERVICE, 5_000, code, models=models) for _ in range(jobs)]


async def wakes(broker: Any, outages: Outages, model: str = "a") -> bool:
    """Whether a waiting job is due after a call has passed."""
    await broker.zadd(WAITING, {"job": FAR_US})
    await broker.delete(delayed.next_of("ai.deferred"))
    outages.passed(SERVICE, model)
    for waking in list(outages._waking):
        await waking
    return await broker.get(delayed.next_of("ai.deferred")) == "0"


@pytest.mark.parametrize(
    ("jobs", "code", "longest_ms"),
    [
        (0, "connect_error", 5_000),
        (1_000, "connect_error", 1_000_000),
        (10_000, "server_error", 3_600_000),
        (1_000, "rate_limit", 5_000),  # the end of the rest is known
        (1_000, "tpm", 5_000),
    ],
)
async def test_a_crowd_spreads_over_more_than_a_rest(
    broker: Any, jobs: int, code: str, longest_ms: int
) -> None:
    outages = Outages(broker)
    await waits_ms(outages, code, jobs)
    # A few jobs may all come back with each rest.
    waits = await waits_ms(outages, code, 300 if jobs else 5)
    assert min(waits) >= 5_000
    still_growing = 5_000 < longest_ms < 3_600_000
    assert 0.9 * longest_ms <= max(waits) <= longest_ms + still_growing * 300 * 1_000
    assert mean(waits) == pytest.approx((5_000 + longest_ms) / 2, rel=0.3)


async def test_the_crowd_of_one_model_delays_no_job_of_another(broker: Any) -> None:
    outages = Outages(broker)
    await waits_ms(outages, "over_capacity", 1_000, models=("a",))
    assert max(await waits_ms(outages, "over_capacity", 5, models=("b",))) == 5_000


async def test_models_that_no_job_waits_for_are_forgotten(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages, now_s = Outages(broker), 0.0
    monkeypatch.setattr(outages_module.time, "monotonic", lambda: now_s)
    for number in range(3_000):
        now_s = number / 10  # each job waits for five seconds, so fifty jobs wait at a time
        await waits_ms(outages, "connect_error", 1, models=(f"made-up-{number}",))
    assert 50 <= len(outages._due_s) <= 256
    assert not outages._noted_s


async def test_all_come_back_once_a_call_has_passed(broker: Any) -> None:
    outages = Outages(broker)
    await waits_ms(outages, "rate_limit", CROWD)
    await waits_ms(outages, "connect_error", 5)  # these jobs come back soon enough anyway
    assert not await wakes(broker, outages), "there was no outage"
    await waits_ms(outages, "connect_error", CROWD)
    assert await wakes(broker, outages)
    await waits_ms(outages, "connect_error", CROWD)
    assert not await wakes(broker, outages), (
        "a single success among many failures does not wake all jobs each time"
    )


async def test_the_end_of_the_next_outage_is_seen_ten_seconds_after_that_of_the_last(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages, now_s = Outages(broker), 1_000.0
    monkeypatch.setattr(outages_module.time, "monotonic", lambda: now_s)
    for after_s, is_seen in ((0, True), (9.9, False), (0.1, True)):  # since the last one was seen
        now_s += after_s
        await waits_ms(outages, "connect_error", CROWD)
        assert await wakes(broker, outages) is is_seen, after_s


async def test_each_worker_asks_for_an_end_every_ten_seconds_at_most(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages, now_s = Outages(broker), 1_000.0
    monkeypatch.setattr(outages_module.time, "monotonic", lambda: now_s)
    asks = AsyncMock(return_value=False)
    monkeypatch.setattr(outages_module, "end_outage", asks)
    for after_s, count in ((0, 1), (9.9, 1), (0.1, 2)):
        now_s += after_s
        await wakes(broker, outages)
        assert asks.await_count == count, after_s


async def test_an_outage_is_noted_once_a_minute_for_the_longest_that_a_job_waits(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages, now_s = Outages(broker), 1_000.0
    monkeypatch.setattr(outages_module.time, "monotonic", lambda: now_s)
    notes = AsyncMock(wraps=outages_module.note_outage)
    monkeypatch.setattr(outages_module, "note_outage", notes)
    for after_s, noted in ((0, 1), (59, 1), (1, 2)):
        now_s += after_s
        await waits_ms(outages, "connect_error", CROWD)
        assert notes.await_count == noted, after_s
    assert await broker.ttl("ai.deferred.outage") == pytest.approx(7_200, abs=60)
    notes.side_effect = ConnectionError
    now_s += 60
    await waits_ms(outages, "connect_error", CROWD)
    assert notes.await_count > 3, "the next job repeats a note that failed"


async def test_a_call_of_another_model_wakes_nobody(broker: Any) -> None:
    outages = Outages(broker)
    await waits_ms(outages, "over_capacity", CROWD, models=("a", "c"))
    assert not await wakes(broker, outages, "b")
    assert await wakes(broker, outages, "c")


async def test_jobs_are_woken_by_a_later_call_if_the_broker_is_down(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outages = Outages(broker)
    await waits_ms(outages, "connect_error", CROWD)
    with monkeypatch.context() as away:
        away.setattr(broker, "eval", AsyncMock(side_effect=ConnectionError))
        assert not await wakes(broker, outages)
    assert await wakes(broker, outages)


async def test_a_worker_that_started_in_the_outage_wakes_all_at_its_end(broker: Any) -> None:
    await waits_ms(Outages(broker), "connect_error", CROWD)
    assert await wakes(broker, Outages(broker))
    assert not await wakes(broker, Outages(broker)), "one worker wakes the jobs of all"
