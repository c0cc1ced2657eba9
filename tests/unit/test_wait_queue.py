"""A queue of jobs that wait for the same keys, and what it learns from the pool's refusals."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from worker.errors import Deferred
from worker.keypool import HORIZON_MS, LeaseRequest, NoLease, NoLeaseReason
from worker.rotation import wait_queue
from worker.rotation.wait_queue import Waiter, WaitQueue
from worker.rotation.waitlist import _wait_list_of

NO_KEYS = NoLease(NoLeaseReason.NO_KEYS)


def waiter(arrived_s: float, **request: Any) -> Waiter:
    return Waiter(LeaseRequest(**request), arrived_s, asyncio.get_running_loop().create_future())


def queue_of(*waiters: Waiter) -> WaitQueue:
    queue = WaitQueue("m", bulk=False, resources=("m",))
    for each in waiters:
        queue.add(each)
    return queue


@pytest.mark.parametrize(
    ("no_lease", "a_call_that_ends_may_make_room"),
    [
        (NoLease(NoLeaseReason.WAIT, first_in_ms=HORIZON_MS), False),
        (NoLease(NoLeaseReason.WAIT, first_in_ms=HORIZON_MS * 3 // 2), False),
        (NoLease(NoLeaseReason.WAIT, first_in_ms=HORIZON_MS * 2), True),
        (NoLease(NoLeaseReason.BUSY), True),  # limits are not known yet
    ],
)
def test_a_queue_asks_again_when_a_call_ends_only_if_that_may_help(
    no_lease: NoLease,
    a_call_that_ends_may_make_room: bool,  # noqa: FBT001
) -> None:
    queue = WaitQueue("m", bulk=False, resources=("m",))
    queue.note_refusal(LeaseRequest(), no_lease)
    assert queue.until_call_ends is a_call_that_ends_may_make_room


def test_after_a_refusal_only_smaller_requests_may_fit() -> None:
    queue = WaitQueue("m", bulk=False, resources=("m",))
    refused = NoLease(NoLeaseReason.WAIT, reason="tpm")
    queue.note_refusal(LeaseRequest(tokens=100), refused)
    queue.note_refusal(LeaseRequest(tokens=200), refused)
    assert [queue.may_fit(LeaseRequest(tokens=tokens)) for tokens in (99, 100)] == [True, False]
    assert queue.reason == "tpm"
    queue.note_refusal(LeaseRequest(), refused)
    queue.note_refusal(LeaseRequest(tokens=5), refused)
    assert not queue.may_fit(LeaseRequest()), "nothing is smaller than an email"


@pytest.mark.parametrize(
    ("difference", "is_as_large"),
    [
        ({}, True),
        *(
            ({field: value}, value >= 5)
            for field in ("tokens", "input_tokens", "output_tokens", "emails")
            for value in (4, 5, 6)
        ),
        ({"flexible": True}, False),  # fewer tokens may be reserved for it
        ({"flexible": True, "tokens": 6}, False),
    ],
)
def test_a_long_refusal_is_for_all_that_need_as_much(
    difference: dict[str, Any],
    is_as_large: bool,  # noqa: FBT001
) -> None:
    refused = LeaseRequest(tokens=5, input_tokens=5, output_tokens=5, emails=5)
    assert replace(refused, **difference).is_as_large_as(refused) is is_as_large
    flexible = replace(refused, flexible=True)
    assert refused.is_as_large_as(flexible)
    assert flexible.is_as_large_as(flexible)


@pytest.mark.parametrize(
    ("end", "has_answer"),
    [
        (lambda _: None, False),
        (lambda answer: answer.set_result(NO_KEYS), True),
        (lambda answer: answer.set_exception(RuntimeError()), False),
        (lambda answer: answer.cancel(), False),
    ],
)
async def test_an_error_or_a_cancel_is_not_an_answer_and_an_ended_job_can_be_dropped(
    end: Callable[["asyncio.Future[Any]"], object],
    has_answer: bool,  # noqa: FBT001
) -> None:
    job = waiter(0.0)
    queue = queue_of(job)
    end(job.answer)
    assert job.has_answer() is has_answer
    queue.drop(job)
    assert (queue.waiters, queue.woken.is_set(), job.answer.done()) == ([], True, True)
    queue.drop(job)  # a second call does no harm


async def test_a_queue_is_woken_when_its_last_job_leaves_it() -> None:
    first, second = waiter(1.0), waiter(2.0)
    queue = queue_of(second, first)
    assert queue.waiters == [first, second]
    queue.drop(first)
    assert (queue.waiters, queue.woken.is_set()) == ([second], False)
    queue.drop(second)
    assert queue.woken.is_set()


async def test_an_answer_is_given_once_and_takes_the_job_out() -> None:
    job = waiter(0.0)
    queue = queue_of(job)
    assert queue.deliver(job, NO_KEYS)
    assert (queue.waiters, job.answer.result()) == ([], NO_KEYS)
    assert not queue.deliver(job, NoLease(NoLeaseReason.BUSY))
    assert job.answer.result() is NO_KEYS
    gone = waiter(0.0)
    gone.answer.cancel()
    queue.add(gone)
    assert not queue.deliver(gone, NO_KEYS)
    assert queue.waiters == []


async def test_each_job_that_redis_defers_raises_an_error_of_its_own() -> None:
    away, job = Deferred(1_000, "Redis is away", "redis", 2_000), waiter(0.0)
    assert queue_of(job).deliver(job, away)
    error = job.answer.exception()
    assert isinstance(error, Deferred)
    assert error is not away
    assert (error.countdown_ms, error.reason, error.code, error.ends_in_ms) == (
        away.countdown_ms,
        away.reason,
        away.code,
        away.ends_in_ms,
    )


async def test_as_many_turns_are_given_as_asked_for_and_each_knows_the_next_jobs_wait() -> None:
    jobs = [waiter(float(second), tokens=second) for second in range(1, 5)]
    queue = queue_of(*jobs)
    jobs[1].answer.cancel()  # it has not run since, so it is still in the queue
    turns = list(queue.next_to_ask(2))
    assert [(turn.waiter, turn.since_s, turn.next_since_s) for turn in turns] == [
        (jobs[0], 1.0, 2.0),
        (jobs[2], 3.0, 4.0),
    ]
    assert [turn.next_since_s for turn in queue.next_to_ask(9)] == [2.0, 4.0, None]
    queue.note_refusal(jobs[2].lease_request, NoLease(NoLeaseReason.WAIT))
    assert [turn.waiter for turn in queue.next_to_ask(9)] == [jobs[0]]
    assert turns[0].request_at(3.25).waited_ms == 2_250
    assert turns[0].request_at(0.5).waited_ms == 0


async def test_a_queue_is_idle_only_if_nothing_of_it_is_left() -> None:
    assert queue_of().is_idle
    server = asyncio.ensure_future(asyncio.sleep(0))
    for queue in (
        queue_of(waiter(0.0)),
        replace(queue_of(), asking=1),
        replace(queue_of(), server=server),
    ):
        assert not queue.is_idle
    queue = queue_of()
    queue.sent_back.append((1.0, "job"))
    assert not queue.is_idle
    await server


async def test_a_queue_settles_for_a_moment_only_if_something_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wait_queue, "_SETTLE_S", 3_600.0)
    queue = WaitQueue("m", bulk=False, resources=("m",))
    await asyncio.wait_for(queue.pause(0.0), 60)
    queue.woken.set()
    settles = asyncio.ensure_future(queue.pause(3_600.0))
    done, _ = await asyncio.wait({settles}, timeout=0)
    assert not done
    settles.cancel()


def test_jobs_that_the_same_keys_may_serve_share_a_wait_list() -> None:
    plain = LeaseRequest(model="m", resource="m")
    assert _wait_list_of(plain) == _wait_list_of(replace(plain, tokens=9, by="x", emails=2)) == "m"
    assert _wait_list_of(replace(plain, bulk=True)) == "m bulk"
    assert _wait_list_of(LeaseRequest()) == "/"
    others = [
        replace(plain, **changes)
        for changes in (
            {"exclude": frozenset({"a", "b"})}, {"exclude": frozenset({"a"})},
            {"exclude_accounts": frozenset({"a"})}, {"account": "a"}, {"resource": "x"},
            {"fallbacks": (("n", "n"),)},
        )
    ]  # fmt: skip
    names = {_wait_list_of(request) for request in others}
    assert len(names) == len(others)
    assert all(name.startswith("m/") and len(name) == 14 for name in names)
    assert _wait_list_of(replace(others[0], bulk=True)) == f"{_wait_list_of(others[0])} bulk"
