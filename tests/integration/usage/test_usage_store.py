"""The store of usage: what it keeps, for how long, and how much of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from worker.usage import MEASURES, OTHERS, Counted, Series, Unit, UsageCounter, UsageStore
from worker.usage.series import packed, unpacked
from worker.usage.store import MOST_SERIES

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS + 12 * 3_600_000
KEY = Series("groq", "0123456789ab", "org_1", "m")
ROOT = "{kw:usage}"
BOUND_BYTES = 64 * 2**20
"""The most memory that usage takes, as docs/usage.md promises."""


class Clock:
    def __init__(self) -> None:
        self.at_ms = START_MS

    def __call__(self) -> int:
        return self.at_ms


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(redis_url, decode_responses=True)
    async with Redis.from_pool(connections) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


def counts(**some: int) -> tuple[int, ...]:
    return tuple(some.get(name, 0) for name in MEASURES)


async def read(store: UsageStore, unit: Unit, *, back_ms: int = DAY_MS) -> list[Counted]:
    now_ms = await store.now_ms()
    return [step async for step in store.read(unit, first_ms=now_ms - back_ms, last_ms=now_ms)]


async def test_reports_of_several_processes_add_up_by_minute_and_by_hour(
    redis: Redis, clock: Clock
) -> None:
    store = UsageStore(redis, namespace="kw", now_ms=clock)
    tenant = Series("groq", model="m", tenant="acme")
    await store.add({KEY: counts(calls=35, waited_ms=7)}, writer="a", number=1)
    await store.add(
        {KEY: counts(calls=2, refused=1), tenant: counts(calls=1)}, writer="b", number=1
    )
    clock.at_ms += 60_000
    await store.add({KEY: counts(calls=10**9, output_tokens=5)}, writer="a", number=2)
    first, second = START_MS, START_MS + 60_000
    assert await read(store, Unit.MINUTE) == [
        Counted(first, KEY, counts(calls=37, refused=1, waited_ms=7)),
        Counted(first, tenant, counts(calls=1)),
        Counted(second, KEY, counts(calls=10**9, output_tokens=5)),
    ]
    total = Counted(first, KEY, counts(calls=10**9 + 37, refused=1, output_tokens=5, waited_ms=7))
    hours = await read(store, Unit.HOUR)
    assert hours == [total, Counted(first, tenant, counts(calls=1))]
    span: dict[str, Any] = {"first_ms": START_MS - DAY_MS, "last_ms": clock.at_ms}
    steps = store.read(Unit.MINUTE, **span, step_ms=3_600_000)
    assert [step async for step in steps] == hours
    steps = store.read(
        Unit.MINUTE, **span, step_ms=600_000, wanted=lambda series: not series.tenant
    )
    assert [step async for step in steps] == [total]


async def test_usage_that_another_program_or_a_later_version_wrote_is_left_out(
    redis: Redis, clock: Clock
) -> None:
    store = UsageStore(redis, namespace="kw", now_ms=clock)
    await store.add({KEY: counts(calls=1)}, writer="a", number=1)
    names, minute = f"{ROOT}:names:{START_MS // DAY_MS}", f"{ROOT}:minute:{START_MS // 60_000}"
    for number, name in enumerate(('["key","groq"]', '["key","groq","k","a","m","x"]', "[", "k")):
        await redis.hset(names, name, 100 + number)
        await redis.hset(minute, str(100 + number), "1")
    await redis.hset(minute, "999", "1")  # belongs to no series
    await redis.hset(names, Series("groq", "other").name, 200)
    await redis.hset(minute, "200", "no number")
    assert await read(store, Unit.MINUTE) == [Counted(START_MS, KEY, counts(calls=1))]


async def test_measures_that_one_report_has_and_another_has_not_are_added_up(
    redis: Redis, clock: Clock
) -> None:
    store = UsageStore(redis, namespace="kw", now_ms=clock)
    for number, some in enumerate(
        ({"calls": 1}, {"calls": 2, "emails": 3, "waited_ms": 4}, {"refused": 1})
    ):
        await store.add({KEY: counts(**some)}, writer="a", number=number)
    [found] = await read(store, Unit.MINUTE)
    assert found.counts == counts(calls=3, refused=1, emails=3, waited_ms=4)


async def test_a_report_that_comes_twice_counts_once(redis: Redis, clock: Clock) -> None:
    store = UsageStore(redis, namespace="kw", now_ms=clock)
    report = {KEY: counts(calls=1)}
    assert await store.add(report, writer="a", number=1)
    assert not await store.add(report, writer="a", number=1)
    assert await store.add(report, writer="b", number=1)
    [found] = await read(store, Unit.MINUTE)
    assert found.counts == counts(calls=2)


async def test_minutes_stay_for_a_day_and_hours_for_ninety(redis: Redis) -> None:
    store = UsageStore(redis, namespace="kw")
    await store.add({KEY: counts(calls=1)}, writer="a", number=1)
    lives_s = {
        name.removeprefix(f"{ROOT}:").partition(":")[0]: await redis.ttl(name)
        async for name in redis.scan_iter(f"{ROOT}*")
    }
    days = {name: life_s / 86_400 for name, life_s in lives_s.items()}
    assert days == pytest.approx(
        {"minute": 1, "hour": 90, "names": 91, "writer": 600 / 86_400}, abs=0.05
    )


async def test_series_without_a_place_are_counted_together_and_leave_the_other_kind_alone(
    redis: Redis, clock: Clock
) -> None:
    store = UsageStore(redis, namespace="kw", now_ms=clock, most_series=2)
    made_up = {Series("groq", tenant=f"t{number}"): counts(calls=1) for number in range(5)}
    await store.add(made_up | {KEY: counts(calls=1)}, writer="a", number=1)
    counts_by_series = {step.series: step.counts for step in await read(store, Unit.MINUTE)}
    assert counts_by_series.pop(KEY) == counts(calls=1)
    assert counts_by_series.pop(Series("groq", model=OTHERS, tenant=OTHERS)) == counts(calls=3)
    assert {series.tenant for series in counts_by_series} == {"t0", "t1"}
    clock.at_ms += DAY_MS  # the next day has room for others
    await store.add({Series("groq", tenant="t4"): counts(calls=1)}, writer="a", number=2)
    assert [step.series.tenant for step in await read(store, Unit.MINUTE, back_ms=0)] == ["t4"]


async def test_all_of_it_stays_within_the_stated_bound(redis: Redis, clock: Clock) -> None:
    """If every series were busy in every minute: the memory of one minute, times 1,440."""
    store = UsageStore(redis, namespace="kw", now_ms=clock)
    busy: dict[str, Any] = {
        "calls": 40, "refused": 10, "faults": 2, "rejected": 1, "prompt_tokens": 60_000,
        "cached_tokens": 20_000, "output_tokens": 20_000, "deferrals": 5, "waited_ms": 90_000,
    }  # fmt: skip
    per_minute, per_hour = counts(**busy), counts(**{name: 60 * busy[name] for name in busy})
    filled = {
        **{
            Series("groq", f"{n:012x}", f"org_{n:026d}", "openai/gpt-oss-120b"): 0
            for n in range(400)
        },
        **{
            Series("groq", model="openai/gpt-oss-120b", tenant=f"tenant-{n}"): 0 for n in range(400)
        },
    }
    await store.add(dict.fromkeys(filled, per_minute), writer="a", number=1)
    minute = f"{ROOT}:minute:{START_MS // 60_000}"
    assert await redis.hlen(minute) <= 2 * MOST_SERIES + 2
    assert await redis.object("ENCODING", minute) == "listpack"
    clock.at_ms += 3_600_000
    await store.add(dict.fromkeys(filled, per_hour), writer="a", number=2)
    hour = f"{ROOT}:hour:{clock.at_ms // 3_600_000}"
    assert await redis.object("ENCODING", hour) == "listpack"
    names = f"{ROOT}:names:{START_MS // DAY_MS}"
    sizes = [int(await redis.memory_usage(name, samples=0)) for name in (minute, hour, names)]
    total = sizes[0] * 1_441 + sizes[1] * 2_161 + sizes[2] * 92
    assert total <= BOUND_BYTES, (sizes, total / 2**20)


async def test_the_counter_writes_in_one_command_and_nothing_while_nothing_is_called(
    redis: Redis,
) -> None:
    store = UsageStore(redis, namespace="kw")
    counter = UsageCounter(store, every_s=0.01)
    await redis.config_resetstat()
    for number in range(100):
        counter.count(KEY, calls=1, prompt_tokens=number)
    assert counter._task is not None
    await counter._task  # ends by itself if nothing new came
    stats: Any = await redis.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] <= 2  # the first finds no script
    [found] = await read(store, Unit.MINUTE)
    assert found.counts == counts(calls=100, prompt_tokens=4950)


async def test_counts_that_redis_did_not_take_are_written_later(redis: Redis) -> None:
    store = UsageStore(redis, namespace="kw")
    counter = UsageCounter(store)
    await redis.config_set("maxmemory", 1)
    try:
        counter.count(KEY, calls=1)
        await counter.close()
    finally:
        await redis.config_set("maxmemory", 0)
    counter.count(KEY, calls=2)
    await counter.close()
    assert [step.counts for step in await read(store, Unit.MINUTE)] == [counts(calls=3)]


async def test_an_answer_that_was_lost_counts_nothing_twice(redis: Redis) -> None:
    class Deaf(UsageStore):
        async def add(self, *args: Any, **kwargs: Any) -> bool:
            await super().add(*args, **kwargs)
            raise ConnectionResetError

    store = Deaf(redis, namespace="kw")
    counter = UsageCounter(store)
    counter.count(KEY, calls=1)
    await counter.close()
    store.__class__ = UsageStore
    counter.count(KEY, calls=1)
    await counter.close()
    assert [step.counts for step in await read(store, Unit.HOUR)] == [counts(calls=2)]


def test_a_program_that_ends_at_once_has_written_its_usage(redis_url: str) -> None:
    async def session(counter: UsageCounter, client: Redis) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await counter.close()
            await client.aclose()

    async def call() -> None:
        client: Redis = Redis.from_url(redis_url, decode_responses=True)
        counter = UsageCounter(UsageStore(client, namespace="kw"))
        sessions.append(session(counter, client))
        await anext(sessions[0])
        counter.count(KEY, calls=1)

    async def found() -> list[tuple[int, ...]]:
        async with Redis.from_url(redis_url, decode_responses=True) as client:
            return [
                step.counts for step in await read(UsageStore(client, namespace="kw"), Unit.HOUR)
            ]

    sessions: list[AsyncIterator[None]] = []
    asyncio.run(call())  # it closes open generators, such as those of `worker.clients`
    assert asyncio.run(found()) == [counts(calls=1)]


async def test_a_process_keeps_a_bounded_number_of_series(redis: Redis) -> None:
    counter = UsageCounter(UsageStore(redis, namespace="kw"))
    for number in range(3_000):
        counter.count(Series("groq", "k", "a", f"made-up-{number}"), calls=1)
    assert len(counter._new) <= 1_001
    await asyncio.wait_for(counter.close(), 10)


@pytest.mark.parametrize("text", ["", "1", ",,z", "10,,,,,,,,,zz", "1,2,3,4,5,6,7,8,9,a,b,c"])
def test_counts_are_written_in_few_characters(text: str) -> None:
    values = unpacked(text)
    assert len(values) == len(MEASURES)
    assert packed(values) == ",".join(text.split(",")[: len(MEASURES)])


@pytest.mark.parametrize("series", [KEY, Series("resend", "k", "a"), Series("groq", "", "", 'm"]'),
    Series("groq", model="m", tenant="Ünï ☃")])  # fmt: skip
def test_a_series_is_found_by_its_name(series: Series) -> None:
    assert Series.of(series.name) == series
