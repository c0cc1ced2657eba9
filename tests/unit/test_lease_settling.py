"""The leases of a turn are settled, whatever happens to its job or to Redis."""

import asyncio
from typing import Any, cast

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ReadOnlyError

from tests.unit.waiting_jobs import LEASE
from worker.aio import redis_retry
from worker.keypool import Lease
from worker.rotation import lease_settling
from worker.rotation.call_hooks import NoHooks
from worker.rotation.lease_settling import LeaseSettling
from worker.verdicts import ABANDONED, Dimension, Fate, ObservedLimit, Reply, Verdict

LIMIT = ObservedLimit(Dimension.RPM, 30, remaining=7.0)
DONE = Verdict(Fate.DONE, "ok", limits=(LIMIT,))
LATE = Verdict(Fate.DONE, "ok", limits=(ObservedLimit(Dimension.RPM, 30),))


class Pool:
    """A pool with scripted failures, which notes each settle."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.settles = list(errors), list[tuple[Verdict, bool]]()
        self.gate = asyncio.Event()
        self.gate.set()

    async def settle(self, _: Lease, verdict: Verdict, *, again: bool) -> str:
        self.settles.append((verdict, again))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        return "settled"


class Hooks:
    def __init__(self) -> None:
        self.after_s: list[tuple[Lease, Reply]] = []

    async def after(self, lease: Lease, reply: Reply) -> None:
        self.after_s.append((lease, reply))


def settling(pool: Pool, hooks: Any = None) -> LeaseSettling:
    return LeaseSettling(cast("Any", pool), hooks or NoHooks(lambda _: "request"))


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The commands that are sent later, in the background."""
    sent: list[Any] = []

    def send_later(ask: Any, exc: Exception) -> bool:
        sent.append(ask)
        return not isinstance(exc, ReadOnlyError)

    monkeypatch.setattr(lease_settling, "send_later", send_later)
    monkeypatch.setattr(redis_retry._LogLimit, "until_s", {})
    return sent


@pytest.mark.parametrize(
    ("concludes", "hooked"), [(False, False), (False, True), (True, False), (True, True)]
)
async def test_a_settle_that_fails_is_sent_later_without_what_was_left_of_a_limit(
    late: list[Any], caplog: pytest.LogCaptureFixture, *, concludes: bool, hooked: bool
) -> None:
    pool, hooks = Pool(LostError("gone")), Hooks()
    how = settling(pool, hooks if hooked else None)
    ends = how.conclude(LEASE, Reply(DONE)) if concludes else how.settle(LEASE, DONE)
    assert await ends is None
    assert pool.settles == [(DONE, False)]
    assert len(hooks.after_s) == (hooked and concludes)
    [ask] = late
    assert await ask() == "settled"
    assert pool.settles[1:] == [(LATE, True)], "the remaining part of a limit is outdated"
    assert caplog.messages == ["cannot settle a lease (gone); trying again for a minute"]


async def test_a_lease_that_a_redis_refuses_to_settle_expires(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await settling(Pool(ReadOnlyError("read only"))).settle(LEASE, DONE) is None
    assert caplog.messages == ["cannot settle a lease (read only); it expires on its own"]


@pytest.mark.parametrize("again", [False, True])
async def test_a_settle_that_is_tried_again_says_so(
    late: list[Any], monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    async def twice(ask: Any) -> Any:
        with pytest.raises(LostError):
            await ask()
        return await ask()

    monkeypatch.setattr(lease_settling, "retry_while_down", twice)
    pool = Pool(LostError("gone"))
    reply: Any = await settling(pool).settle(LEASE, DONE, retry=True, again=again)
    assert reply == "settled"
    assert pool.settles == [(DONE, again), (DONE, True)]
    assert late == []


async def test_a_bug_of_the_pool_is_raised() -> None:
    with pytest.raises(ValueError, match="a bug"):
        await settling(Pool(ValueError("a bug"))).settle(LEASE, DONE)


async def test_a_call_without_hooks_is_settled_as_well() -> None:
    reply: Any = await settling(Pool()).conclude(LEASE, Reply(DONE))
    assert reply == "settled"


async def test_the_hooks_record_a_call_while_its_lease_is_settled() -> None:
    pool, hooks, reply = Pool(), Hooks(), Reply(DONE)
    pool.gate.clear()
    concluding = asyncio.ensure_future(settling(pool, hooks).conclude(LEASE, reply, again=True))
    await turns()
    pool.gate.set()
    settled: Any = await concluding
    assert settled == "settled"
    assert (pool.settles, hooks.after_s) == ([(DONE, True)], [(LEASE, reply)])


@pytest.mark.parametrize("concludes", [False, True])
async def test_a_lease_is_settled_although_its_job_is_cancelled(*, concludes: bool) -> None:
    pool, hooks = Pool(), Hooks()
    pool.gate.clear()
    tested = settling(pool, hooks)
    ends = (
        tested.conclude_shielded(LEASE, Reply(ABANDONED))
        if concludes
        else tested.settle_shielded(LEASE, ABANDONED)
    )
    job = asyncio.ensure_future(ends)
    await turns()
    job.cancel()
    await asyncio.wait({job})
    assert job.cancelled()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    pool.gate.set()
    replies: list[Any] = await asyncio.gather(*others)
    assert "settled" in replies
    assert pool.settles == [(ABANDONED, False)]
    assert len(hooks.after_s) == concludes
