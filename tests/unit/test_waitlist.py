"""The line of a process that waits for keys, with the real key pool on a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from config.keys import make_key
from sandbox.redis import EmbeddedRedis
from worker import patience, waitlist
from worker.errors import Deferred
from worker.keypool import KeyPool, Lease, Unavailable, Want, Why
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict
from worker.waitlist import WaitList

SECRET = "gsk_abc1230123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
OK = Verdict(Fate.DONE, "ok", status=200)
MODEL = "m"


def resting(cooldown_ms: int) -> Verdict:
    return Verdict(
        Fate.NEXT_KEY, "rate_limit", effect=Effect.COOL, scope=Scope.ACCOUNT_MODEL, cooldown_ms=cooldown_ms, status=429
    )


class Line:
    """A wait list and its pool of one key; `log` tells who got a lease, in order."""

    def __init__(self, redis: Redis, **options: Any) -> None:
        self.redis = redis
        key = make_key("groq", secret=SECRET, variable="GROQ_API_KEY")
        self.pool = KeyPool(redis, "groq", [key], **({"opening": 1_000, "patience_ms": 600_000} | options))
        self.list = WaitList(self.pool)
        self.log: list[str] = []
        self.asks = 0
        self.ask = self.pool.acquire
        self.pool.acquire = self._counted  # type: ignore[method-assign]

    async def _counted(self, *args: Any) -> Lease | Unavailable:
        self.asks += 1
        got = await self.ask(*args)
        # Who asks again asks since it was woken.
        return got if isinstance(got, Lease) else replace(got, ask_in_ms=600_000)

    async def lease(self, **want: Any) -> Lease:
        got = await self.ask(Want(**({"model": MODEL} | want)))
        assert isinstance(got, Lease)
        return got

    async def rest(self, cooldown_ms: int = 60_000) -> None:
        await self.pool.settle(await self.lease(), resting(cooldown_ms))

    async def back(self) -> None:
        await self.pool.reset(by="test")
        self.list.wake()

    async def stand(self, name: str, *, longest_s: float | None = None, **want: Any) -> asyncio.Task[Any]:
        """Let a job stand in line."""

        async def job() -> Lease | Unavailable:
            got = await self.list.acquire(Want(**({"model": MODEL, "by": name} | want)), longest_s=longest_s)
            self.log.append(name)
            return got

        before = self.waiting()
        task = asyncio.create_task(job(), name="job")
        async with asyncio.timeout(10):
            while self.waiting() == before:  # noqa: ASYNC110 - a line tells nobody
                await asyncio.sleep(0)
        return task

    def waiting(self) -> int:
        return self.list.count(bulk=False) + self.list.count(bulk=True)

    async def entries(self, wait_list: str = MODEL) -> tuple[int, int]:
        name = self.pool.names.waiting(wait_list)
        return await self.redis.zcard(name), await self.redis.zcard(f"{name}:due")

    async def leases_out(self) -> int:
        return int(await self.redis.zcard(self.pool.names.leases))


async def outcomes(*jobs: asyncio.Task[Any]) -> list[Any]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*jobs, return_exceptions=True)


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110 - what is awaited happens in Redis
            await asyncio.sleep(0.005)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_pool(BlockingConnectionPool.from_url(redis_url, decode_responses=True)) as client:
        yield client
        # What a test left behind must not outlive its connections.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if task.get_name() == "job":
                task.cancel()
        if others:
            await asyncio.wait(others, timeout=10)


@pytest.fixture
def line(redis: Redis) -> Line:
    return Line(redis)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        yield server


@pytest.fixture
async def own_redis(own_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(
        own_server.url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_connect_timeout=2
    )
    async with Redis.from_pool(connections) as client:
        yield client


async def test_a_key_that_is_free_is_had_at_once_and_nobody_enters_a_wait_list(line: Line) -> None:
    assert isinstance(await line.list.acquire(Want(model=MODEL), longest_s=0), Lease)
    assert (line.asks, line.waiting(), await line.entries()) == (1, 0, (0, 0))


async def test_who_has_waited_longest_is_served_first(line: Line) -> None:
    await line.rest()
    waits_ms = {"new": 0, "oldest": 50_000, "old": 10_000, "newest": 0}
    jobs = [await line.stand(name, waited_ms=waited_ms) for name, waited_ms in waits_ms.items()]
    await line.back()
    assert {type(got) for got in await outcomes(*jobs)} == {Lease}
    assert line.log == ["oldest", "old", "new", "newest"]


async def test_only_the_first_asks_while_there_is_no_room(line: Line) -> None:
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(20)]
    assert line.asks == 1
    line.list.wake()
    await until(lambda: asyncio.sleep(0, line.asks == 2))
    await line.back()
    assert {type(got) for got in await outcomes(*jobs)} == {Lease}
    assert line.log == [str(number) for number in range(20)]


async def test_a_small_job_passes_a_large_one_that_waits_for_its_tokens(line: Line) -> None:
    left = ObservedLimit(Dimension.TPM, 6_000, remaining=2_000)
    await line.pool.settle(await line.lease(), replace(OK, limits=(left,)))
    large = [await line.stand(f"large {number}", tokens=5_000) for number in range(2)]
    assert line.asks == 1, "the second is as large"
    small = await line.stand("small", tokens=100)
    [got] = await outcomes(small)
    assert isinstance(got, Lease)
    assert line.waiting() == 2
    for job in large:
        job.cancel()
    await outcomes(*large)


async def test_a_job_that_is_stopped_in_line_leaves_it_and_holds_up_nobody(line: Line) -> None:
    await line.rest()
    first, second = await line.stand("first"), await line.stand("second")
    first.cancel()
    await line.back()
    stopped, got = await outcomes(first, second)
    assert isinstance(stopped, asyncio.CancelledError)
    assert isinstance(got, Lease)
    assert await line.leases_out() == 1


async def test_a_job_that_is_stopped_while_its_lease_is_on_its_way_gives_it_back(line: Line) -> None:
    await line.rest()
    job = await line.stand("stopped")
    ask = line.ask

    async def on_the_way(*args: Any) -> Lease | Unavailable:
        got = await ask(*args)
        job.cancel()
        await asyncio.wait({job})
        assert await line.leases_out() == 1
        return got

    line.ask = on_the_way
    await line.back()
    [stopped] = await outcomes(job)
    assert isinstance(stopped, asyncio.CancelledError)
    await until(lambda: _none(line.leases_out()))
    assert not [name for name in await line.redis.hkeys(line.pool.names.inflight) if name.startswith("key:")]


async def _none(count: Any) -> bool:
    return await count == 0


async def test_a_job_that_is_stopped_in_the_moment_that_it_gets_a_lease_gives_it_back(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    await line.rest()
    job = await line.stand("stopped")
    tell = waitlist._tell

    def tell_and_stop(*args: Any) -> bool:
        told = tell(*args)
        job.cancel()
        return told

    monkeypatch.setattr(waitlist, "_tell", tell_and_stop)
    await line.back()
    [stopped] = await outcomes(job)
    assert isinstance(stopped, asyncio.CancelledError)
    assert await line.leases_out() == 0


async def test_jobs_that_are_stopped_in_the_moment_of_asking_do_not_hang_the_process(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waitlist, "_SETTLE_S", 0)
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(waitlist._LOOKED_AT + 1)]
    last = jobs.pop()
    line.list.wake()
    await asyncio.sleep(0)  # the line is about to ask; the jobs will not have run when it does
    for job in jobs:
        job.cancel()
    await line.back()
    *stopped, got = await outcomes(*jobs, last)
    assert {type(one) for one in stopped} == {asyncio.CancelledError}
    assert isinstance(got, Lease)


@pytest.mark.parametrize("longest_s", [0, 0.05])
async def test_nobody_stands_in_line_for_longer_than_it_may(line: Line, longest_s: float) -> None:
    await line.rest()
    patient = await line.stand("patient")
    got = await line.list.acquire(Want(model=MODEL), longest_s=longest_s)
    assert got == Unavailable(Why.WAIT, reason="rate_limit")
    assert line.waiting() == 1
    await line.back()
    assert isinstance((await outcomes(patient))[0], Lease)


async def test_a_wake_up_that_comes_while_the_line_asks_is_not_lost(line: Line) -> None:
    await line.rest()
    job = await line.stand("waiting")
    ask = line.ask

    async def stale(*args: Any) -> Lease | Unavailable:
        got = await ask(*args)
        line.ask = ask
        await line.back()
        return got

    line.ask = stale
    line.list.wake()
    assert isinstance((await outcomes(job))[0], Lease)


async def test_a_wake_up_that_comes_while_a_job_asks_that_nobody_stands_before_is_not_lost(line: Line) -> None:
    await line.rest()
    ask = line.ask

    async def stale(*args: Any) -> Lease | Unavailable:
        got = await ask(*args)
        line.ask = ask
        await line.back()
        return got

    line.ask = stale
    async with asyncio.timeout(10):
        assert isinstance(await line.list.acquire(Want(model=MODEL)), Lease)


async def test_the_end_of_a_call_makes_room_where_limits_are_unknown(redis: Redis) -> None:
    line = Line(redis, opening=1)
    held = await line.lease()
    job = await line.stand("waiting")
    await line.pool.settle(held, OK)
    line.list.notify_ended()
    assert isinstance((await outcomes(job))[0], Lease)


async def test_a_rest_that_is_long_is_told_to_everybody_in_line_alike(redis: Redis) -> None:
    line = Line(redis, patience_ms=5_000)
    pressed: list[float] = []
    line.list.pressed = lambda: pressed.append(line.list.resting_s())
    late = await line.lease()
    await line.rest(4_000)
    jobs = [await line.stand(str(number), tokens=10 + number % 2) for number in range(6)]
    assert (line.asks, pressed) == (1, [])
    await line.pool.settle(late, resting(60_000))
    line.list.wake()
    told = await outcomes(*jobs)
    assert {got.why for got in told} == {Why.RESTING}
    assert all(55_000 < got.first_in_ms <= 60_000 for got in told)
    assert line.asks == 2
    assert (line.waiting(), len(pressed)) == (0, 1)
    assert 50 < pressed[0] <= 60
    assert 50 < line.list.resting_s() <= 60
    line.list.wake()
    assert line.list.resting_s() == 0


async def test_a_service_rests_only_where_all_kinds_of_jobs_that_came_lately_do(redis: Redis) -> None:
    line = Line(redis, patience_ms=5_000)
    await line.rest()
    got = await line.list.acquire(Want(model=MODEL))
    assert isinstance(got, Unavailable)
    assert line.list.resting_s() > 50
    assert isinstance(await line.list.acquire(Want(model="another")), Lease)
    assert line.list.resting_s() == 0


async def test_a_line_that_is_empty_leaves_its_wait_list(line: Line) -> None:
    await line.rest()
    served, stopped = await line.stand("served"), await line.stand("stopped", bulk=True)
    line.list.wake()
    await until(lambda: _entered(line, (1, 1)))
    await until(lambda: _entered(line, (1, 1), f"{MODEL} bulk"))
    stopped.cancel()
    await line.back()
    await outcomes(served, stopped)
    await until(lambda: _entered(line, (0, 0)))
    await until(lambda: _entered(line, (0, 0), f"{MODEL} bulk"))


async def _entered(line: Line, expected: tuple[int, int], wait_list: str = MODEL) -> bool:
    return await line.entries(wait_list) == expected


async def test_who_does_not_stand_in_turn_enters_no_wait_list(line: Line) -> None:
    await line.rest()
    waiting = asyncio.create_task(line.list.acquire(Want(model=MODEL, exclude=frozenset({"x"})), in_turn=False))
    await until(lambda: asyncio.sleep(0, line.waiting() == 1))
    assert not [name async for name in line.redis.scan_iter("*:waiting:*")]
    await line.back()
    assert isinstance((await outcomes(waiting))[0], Lease)


async def test_a_line_waits_for_a_redis_that_comes_back(own_server: EmbeddedRedis, own_redis: Redis) -> None:
    line = Line(own_redis)
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(3)]
    own_server.stop()
    line.list.wake()
    await asyncio.to_thread(own_server.start)
    await line.back()
    assert {type(got) for got in await outcomes(*jobs)} == {Lease}


async def test_a_redis_that_stays_away_defers_each_job_with_an_error_of_its_own(
    own_server: EmbeddedRedis, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "JOB", replace(patience.JOB, within_s=0.2))
    line = Line(own_redis)
    await line.rest()
    jobs = [await line.stand(str(number), tokens=10 - number) for number in range(3)]
    asks = line.asks
    own_server.stop()
    line.list.wake()
    told = await outcomes(*jobs)
    assert {type(why) for why in told} == {Deferred}
    assert len({id(why) for why in told}) == 3
    assert all("Redis does not answer" in why.reason and why.countdown_ms >= 5_000 for why in told)
    assert line.waiting() == 0
    assert 0 < line.asks - asks < 10, "one job found it out for all"


async def test_a_bug_in_the_pool_comes_out_of_the_job_that_met_it_and_of_no_other(line: Line) -> None:
    await line.rest()
    jobs = [await line.stand(name) for name in ("odd", "second", "third")]
    ask = line.ask

    async def stumbling(want: Want, *args: Any) -> Lease | Unavailable:
        if want.by == "odd":
            raise ZeroDivisionError
        return await ask(want, *args)

    line.ask = stumbling
    await line.back()
    odd, *others = await outcomes(*jobs)
    assert isinstance(odd, ZeroDivisionError)
    assert {type(got) for got in others} == {Lease}


async def test_a_bug_beside_the_asking_leaves_nobody_waiting(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(3)]

    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(line.list, "_note", stumble)
    await line.back()
    assert {type(got) for got in await outcomes(*jobs)} == {ZeroDivisionError}


async def test_room_is_what_was_served_within_the_horizon_and_who_fills_it_presses(line: Line) -> None:
    pressed: list[int] = []
    line.list.pressed = lambda: pressed.append(line.waiting())
    assert line.list.room() == 8
    for _ in range(10):
        await line.list.acquire(Want(model=MODEL))
    assert line.list.room() == 10
    await line.rest()
    for number in range(9):
        await line.stand(str(number), bulk=True)
    jobs = [await line.stand(str(number)) for number in range(9)]
    assert (line.list.count(bulk=True), line.list.count(bulk=False), pressed) == (9, 9, [])
    jobs.append(await line.stand("the last"))
    assert pressed == [19]
    await line.back()
    assert {type(got) for got in await outcomes(*jobs)} == {Lease}


async def test_lines_of_models_that_nobody_asks_for_any_more_are_forgotten(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waitlist, "_MOST_LANES", 3)
    await line.rest()
    waiting = await line.stand("waiting")
    for number in range(9):
        await line.list.acquire(Want(model=str(number)))
    assert len(line.list._lanes) <= 5
    await line.back()
    assert isinstance((await outcomes(waiting))[0], Lease)


async def test_a_full_line_keeps_no_jobs_of_another_model_from_their_keys(redis: Redis) -> None:
    line = Line(redis)
    await line.rest()
    other = await line.ask(Want(model="other"))
    assert isinstance(other, Lease)
    waiting = [
        asyncio.create_task(line.list.acquire(Want(model=MODEL, waited_ms=20 - n)), name="turn") for n in range(20)
    ]
    await asyncio.sleep(0)
    assert isinstance(await line.list.acquire(Want(model="other")), Lease)
    waiting += [asyncio.create_task(line.list.acquire(Want(model=MODEL)), name="turn") for _ in range(3)]
    sent_back = [await one for one in waiting[-3:]]
    assert {got.reason for got in sent_back if isinstance(got, Unavailable)} == {"many jobs of its kind wait"}
    assert line.list.crowd(bulk=False) == 0, "so the queue flows on"
    assert sent_back[0].first_in_ms <= sent_back[-1].first_in_ms <= 5_000
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_when_the_worker_ends_nobody_waits_any_more(line: Line) -> None:
    await line.rest()
    waiting = [await line.stand(name) for name in "ab"]
    line.list.close()
    late = await line.list.acquire(Want(model=MODEL))
    assert {got.reason for got in [*await outcomes(*waiting), late]} == {"this worker shuts down"}
    await until(lambda: _is(line.entries(), (0, 0)))


async def _is(found: Any, expected: Any) -> bool:
    return bool(await found == expected)
