"""The usage that a rotation counts for its calls."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    DEAD,
    FAULTY,
    INVALID,
    OK,
    Make,
    keys,
    refused,
    serve,
)
from tests.noted_usage import NotedUsage
from worker.errors import Deferred, RequestRejected, TransientError
from worker.usage import MEASURES, Series, Unit, UsageCounter, UsageStore
from worker.verdicts import Reply

READ = Reply(replace(OK.verdict, input_tokens=40, cached_tokens=60, output_tokens=7), {})
FIRST, SECOND = (key.id for key in keys(2))


class WrittenUsage:
    """A counter, and the counts that it has written."""

    def __init__(self, redis: Redis) -> None:
        self.store = UsageStore(redis, namespace="kw")
        self.counter = UsageCounter(self.store)

    async def counts(self) -> dict[Series, dict[str, int]]:
        await self.counter.close()
        now_ms = await self.store.now_ms()
        hours = self.store.read(Unit.HOUR, first_ms=now_ms - 3_600_000, last_ms=now_ms)
        return {
            hour.series: {
                name: count
                for name, count in zip(MEASURES, hour.counts, strict=True)
                if count and name != "waited_ms"
            }
            async for hour in hours
        }


@pytest.fixture
def usage(redis: Redis) -> WrittenUsage:
    return WrittenUsage(redis)


async def test_each_call_counts_for_its_key_and_for_its_tenant(
    make: Make, usage: WrittenUsage
) -> None:
    rotation, _ = make(refused(), READ, count=2, usage=usage.counter)
    await serve(rotation, model="m", tenant="acme")
    assert await usage.counts() == {
        Series("groq", FIRST, FIRST, "m"): {"calls": 1, "refused": 1},
        Series("groq", SECOND, SECOND, "m"): {
            "calls": 1, "prompt_tokens": 100, "cached_tokens": 60, "output_tokens": 7,
        },
        Series("groq", model="m", tenant="acme"): {
            "calls": 2, "refused": 1, "prompt_tokens": 100, "cached_tokens": 60,
            "output_tokens": 7,
        },
    }  # fmt: skip


# The provider's answer, the end of the turn, and the usage counted for the key.
@pytest.mark.parametrize(
    ("reply", "error", "counted"),
    [
        (INVALID, RequestRejected, {"calls": 1, "rejected": 1}),
        (FAULTY, TransientError, {"calls": 1, "faults": 1}),
        (DEAD, Deferred, {"calls": 1, "faults": 1}),
        (refused(account="org_1"), Deferred, {"calls": 1, "refused": 1}),
    ],
)
async def test_a_call_counts_as_the_counters_of_its_key_do(
    make: Make, usage: WrittenUsage, reply: Reply, error: type[Exception], counted: dict[str, int]
) -> None:
    rotation, _ = make(reply, count=1, usage=usage.counter)
    with pytest.raises(error):
        await serve(rotation, by="job")
    counts = await usage.counts()
    account = reply.verdict.account or FIRST
    assert counts.pop(Series("groq", FIRST, account)) == counted
    view = (await rotation.pool.snapshot()).keys[0]
    assert {name: getattr(view, name) for name in counted} == counted
    assert counts in ({}, {Series("groq"): {"deferrals": 1}})
    assert bool(counts) is (error is Deferred)


async def test_a_call_that_is_cut_counts_as_a_fault(make: Make, usage: WrittenUsage) -> None:
    rotation, provider = make("hang", count=1, usage=usage.counter)
    turn = asyncio.create_task(serve(rotation), name="turn")
    await provider.called.wait()
    turn.cancel()
    await asyncio.wait([turn])
    assert await usage.counts() == {Series("groq", FIRST, FIRST): {"calls": 1, "faults": 1}}


async def test_the_wait_of_an_accepted_call_includes_earlier_runs(make: Make) -> None:
    usage = NotedUsage()
    rotation, _ = make(count=1, usage=usage)
    await serve(rotation, waited_ms=5_000)
    assert 5_000 <= usage.total("waited_ms") < 10_000
