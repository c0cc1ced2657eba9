"""One turn of a job: its waits, what it returns to the pool, and its next keys.

With a real key pool: `tests/integration/rotation`.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from redis.exceptions import ConnectionError as LostError

from tests.unit.turn_bench import (
    KEYS,
    OK,
    REFUSED,
    REQUEST,
    SERVER_ERROR,
    WAIT,
    Bench,
    bench,
    lease,
    settled,
)
from worker import attempts
from worker.errors import Deferred, RequestRejected, TransientError
from worker.keypool import Lease, NoLease, NoLeaseReason
from worker.rotation import lease_settling, turn
from worker.rotation.limiter import SLOTS
from worker.rotation.turn import INTERRUPTED
from worker.verdicts import ABANDONED, Effect, Fate, Reply, Verdict

__all__ = ["bench"]


async def test_a_turn_adds_up_its_waits_and_asks_for_no_longer_than_it_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.leases.extend([(lease(0, wait_ms=200), 1.5), (lease(1), 9.0), (lease(2), 0.0)])
    bench.confirms.extend([lease(0), lease(1)])
    bench.replies.extend([REFUSED, REFUSED, OK])
    attempts.begin()
    telemetry = Mock()
    monkeypatch.setattr(turn, "telemetry", telemetry)
    served = await bench.turn(longest_s=10.0).run()
    assert (served.value, served.key, served.model) == ({"text": "hello"}, KEYS[2].label, "m")
    assert (served.attempts, served.waited_ms) == (3, 10_700)
    excluded = [frozenset(), {KEYS[0].id}, {KEYS[0].id, KEYS[1].id}]
    assert [request.exclude for request, _, _ in bench.requests] == excluded
    assert [request.waited_ms for request, _, _ in bench.requests] == [5_000, 6_700, 15_700]
    assert [in_turn for _, in_turn, _ in bench.requests] == [True, False, False]
    assert [longest_s for _, _, longest_s in bench.requests] == [10.0, pytest.approx(8.3), 0.0]
    assert bench.counted == [(6_700, "rate_limit"), (15_700, "rate_limit"), (15_700, "ok")]
    assert [(lease_id, again) for lease_id, _, again in bench.settled] == [
        ("lease-0", False), ("lease-1", False), ("lease-2", False),
    ]  # fmt: skip
    assert bench.happened.count("call ended") == 3
    calls = attempts.of_this_run()
    assert [(attempt.code, attempt.in_doubt) for attempt in calls] == [
        ("rate_limit", False), ("rate_limit", False), ("ok", False),
    ]  # fmt: skip
    waits = [noted.kwargs["began_s"] for noted in telemetry.note_wait.mock_calls]
    assert waits == pytest.approx([100.0, 101.5, 101.7, 110.7])
    assert [noted.args[1] for noted in telemetry.note_attempt.mock_calls] == list(calls)


async def test_a_request_of_one_account_does_not_wait_in_turn_and_keeps_its_keys(
    bench: Bench,
) -> None:
    bench.leases.extend([(lease(), 0.0), (lease(), 0.0)])
    bench.replies.extend([REFUSED, OK])
    assert (await bench.turn(replace(REQUEST, account="a")).run()).attempts == 2
    assert [(request.exclude, in_turn) for request, in_turn, _ in bench.requests] == [
        (frozenset(), False)
    ] * 2


# How long a lease is delayed before its call, in seconds, and whether the pool confirms it again.
@pytest.mark.parametrize(("held_up_s", "is_asked"), [(0.0, False), (0.05, False), (0.05004, True)])
async def test_a_lease_that_was_held_up_is_confirmed(
    bench: Bench, held_up_s: float, *, is_asked: bool
) -> None:
    acquire = bench.slots.acquire

    async def slowly(key: str) -> Any:
        bench.now_s += held_up_s
        return await acquire(key)

    bench.now_s = 0.0
    bench.slots.acquire = slowly  # type: ignore[method-assign]
    bench.leases.append((lease(), 0.0))
    bench.confirms.append(lease())
    bench.replies.append(OK)
    await bench.turn().run()
    assert len(bench.confirms) == (not is_asked)


async def test_a_turn_drops_a_lease_whose_key_rests_by_now_and_waits_for_a_later_one(
    bench: Bench,
) -> None:
    bench.leases.extend([(lease(0, wait_ms=70), 0.0), (lease(1, wait_ms=30), 0.0)])
    bench.confirms.extend([None, lease(1, wait_ms=1), lease(1)])
    bench.replies.append(OK)
    served = await bench.turn().run()
    assert (served.key, served.waited_ms) == (KEYS[1].label, 101)
    waits = [event for event in bench.happened if event[0] == "waits"]
    assert waits == [("waits", ms, SLOTS) for ms in (70, 30, 1)], "no slot is held during the wait"
    assert [lease_id for lease_id, _, _ in bench.settled] == ["lease-1"]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("a bug")])
@pytest.mark.parametrize(
    "where", ["before its instant", "as it is confirmed", "just before", "as its request is made"]
)
async def test_a_lease_of_a_job_that_ends_before_its_call_goes_back_with_its_slot(
    bench: Bench, error: BaseException, where: str
) -> None:
    bench.leases.append((lease(0, wait_ms=10), 0.0))
    bench.starting = error if where == "before its instant" else None
    bench.confirms.append(error if where == "as it is confirmed" else lease())
    bench.making = error if where == "as its request is made" else None
    before_call = AsyncMock(side_effect=error if where == "just before" else None)
    with pytest.raises(type(error)):
        await bench.turn(before_call=before_call).run()
    assert bench.settled == [("lease-0", ABANDONED, False)]
    assert len(await bench.free_slots()) == SLOTS
    assert bench.called() == []
    assert before_call.await_count == (where in {"just before", "as its request is made"})


@pytest.mark.parametrize("waits", [False, True])
async def test_a_job_is_looked_up_among_the_cancelled_while_its_lease_is_on_its_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, waits: bool
) -> None:
    look, ends = Mock(), AsyncMock()
    monkeypatch.setattr(turn, "EarlyLook", look)
    monkeypatch.setattr(turn, "end_if_cancelled", ends)
    bench.is_used = waits  # a job that has to wait checks it after the wait
    bench.leases.append((lease(), 0.0))
    bench.replies.append(OK)
    await bench.turn().run()
    assert look.mock_calls == ([] if waits else [call("job")])
    assert ends.await_args_list == [call("job", early=None if waits else look.return_value)]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("a bug")])
async def test_a_call_that_is_cut_may_have_been_carried_out(
    bench: Bench, error: BaseException
) -> None:
    attempts.begin()
    bench.leases.append((lease(), 1.0))
    bench.replies.append(error)
    with pytest.raises(type(error)):
        await bench.turn().run()
    assert bench.settled == [("lease-0", INTERRUPTED, False)]
    assert bench.counted == [(6_000, "interrupted")]
    assert bench.happened[1:] == [("after", "lease-0", "interrupted")]
    assert not INTERRUPTED.definite
    assert [(attempt.code, attempt.in_doubt) for attempt in attempts.of_this_run()] == [
        ("interrupted", True)
    ]


# The provider's answer, and whether its settle is retried at once while Redis is down.
@pytest.mark.parametrize(
    ("reply", "patiently"),
    [
        (OK, False),
        (Reply(Verdict(Fate.FAIL, "rejected")), False),
        (REFUSED, True),
        (SERVER_ERROR, True),
    ],
)
async def test_a_refusal_is_settled_before_the_next_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, reply: Reply, *, patiently: bool
) -> None:
    retried: list[Any] = []

    async def retry(ask: Any) -> Any:
        retried.append(ask)
        return await ask()

    monkeypatch.setattr(lease_settling, "retry_while_down", retry)
    bench.leases.extend([(lease(0), 0.0), (lease(1), 0.0)])
    bench.replies.extend([reply, OK])
    with contextlib.suppress(TransientError, RequestRejected):
        await bench.turn().run()
    assert len(retried) == patiently


async def test_a_verdict_on_a_key_is_settled_although_its_job_is_cancelled(bench: Bench) -> None:
    bench.leases.append((lease(), 0.0))
    bench.replies.append(REFUSED)
    bench.settling = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await bench.turn().run()
    assert bench.settled == [
        ("lease-0", REFUSED.verdict, False),
        ("lease-0", REFUSED.verdict, True),
    ]


# The pool's knowledge of a refused key, and whether its failure is logged.
@pytest.mark.parametrize(
    ("effect", "newly", "is_logged"),
    [
        (Effect.COOL, True, True),
        (Effect.DISABLE, True, True),
        (Effect.COOL, False, False),
        (Effect.NONE, True, False),
    ],
)
async def test_a_key_that_fails_is_logged_once(
    bench: Bench, caplog: pytest.LogCaptureFixture, effect: Effect, *, newly: bool, is_logged: bool
) -> None:
    bench.leases.extend([(lease(0), 0.0), (lease(1), 0.0)])
    bench.replies.extend([Reply(replace(REFUSED.verdict, effect=effect)), OK])
    bench.settling = settled(newly=newly)
    with caplog.at_level(logging.INFO):
        await bench.turn().run()
    failed = [line for line in caplog.messages if "failed" in line]
    assert failed == [f"🚨 API key marked as failed: {KEYS[0].label} (1/3 failed)"] * is_logged


# The pool's answer to a job whose keys were all refused in this turn.
@pytest.mark.parametrize(
    ("again", "served"),
    [
        (lease(0), False),  # it was refused a moment ago
        (lease(0, wait_ms=40), True),
        (WAIT, True),
        (NoLease(NoLeaseReason.BUSY), True),
        (NoLease(NoLeaseReason.RESTING, first_in_ms=60_000, reason="rpm"), False),
    ],
)
async def test_a_job_whose_keys_were_all_refused_waits_for_one_that_will_have_room(
    bench: Bench, again: Lease | NoLease, *, served: bool
) -> None:
    bench.again = again
    bench.leases.extend([(lease(0), 0.0), (WAIT, 0.0), (lease(1), 0.0)])
    bench.confirms.append(lease(0))
    bench.replies.extend([REFUSED, OK])
    if served:
        assert (await bench.turn().run()).attempts == 2
        assert len(bench.requests) == (2 if isinstance(again, Lease) else 3)
    else:
        with pytest.raises(Deferred) as caught:
            await bench.turn().run()
        at_once = isinstance(again, Lease)
        assert caught.value.reason == ("every key was refused a moment ago" if at_once else "rpm")
        assert (bench.settled[-1] == ("lease-0", ABANDONED, False)) is at_once
    assert [request.exclude for request in bench.second_requests] == [frozenset()]


@pytest.mark.parametrize("error", [LostError(), ValueError("a bug")])
async def test_a_failed_key_is_left_out_of_the_log_while_redis_is_down(
    bench: Bench, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    bench.leases.extend([(lease(0), 0.0), (lease(1), 0.0)])
    bench.replies.extend([REFUSED, OK])
    bench.settling = settled(newly=True)
    tested: Any = bench.turn()
    tested.pool.snapshot = AsyncMock(side_effect=error)
    if isinstance(error, LostError):
        await tested.run()
    else:
        with pytest.raises(ValueError, match="a bug"):
            await tested.run()
    assert not any("failed" in line for line in caplog.messages)
