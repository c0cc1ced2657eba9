"""Cancelled jobs: those in a worker's timer, those with stamps, and those that perhaps run."""

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous.timer import Timer
from kombu.exceptions import ChannelError, ConnectionError, OperationalError  # noqa: A004 - of AMQP
from redis.exceptions import RedisError

from worker import cancellations
from worker.aio import cancelling, lifespan
from worker.errors import Deferred
from worker.hooks import cancel
from worker.hooks.cancel import Cancelling, _end_waiting


def job(task_id: str) -> Any:
    request = Request.__new__(Request)
    request.id = task_id
    return request


def test_cancelled_jobs_run_at_once_and_leave_the_timer() -> None:
    timer, ran = Timer(), list[Any]()
    for number, task_id in enumerate(("a", "b", "c", "d")):
        timer.call_after(600 - number, ran.append, (job(task_id),))
    over = timer.call_after(60, ran.append, (job("e"),))
    over.cancel()
    _end_waiting(SimpleNamespace(timer=SimpleNamespace(schedule=timer)), frozenset("ace"))
    assert sorted(request.id for request in ran) == ["a", "c"]
    left = [scheduled.entry.args[0].id for scheduled in timer.queue]
    assert left == ["d", "b"], "the other jobs keep their order"


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == cancel.__name__]


@pytest.mark.parametrize(
    ("act", "lines"),
    [
        (lambda ending: ending.cancel(["a", "b"]), ["a, b"]),
        (lambda ending: ending.cancel_stamped({"group": "g"}), ["group"]),
        (lambda ending: ending._end_here(frozenset("ab"), ["a"]), ["cancelled: a", "a"]),
        (
            lambda ending: ending._end_here(frozenset("ab"), []),
            [],
        ),  # another worker stores it
    ],
)
def test_a_worker_that_ends_says_which_cancels_it_has_not_stored_and_ends_its_jobs(
    act: Callable[[Cancelling], None], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    timer, requests = Timer(), list[Any]()
    timer.call_after(60, requests.append, (job("a"),))
    ending = Cancelling.__new__(Cancelling)
    ending._consumer = SimpleNamespace(app=None, timer=SimpleNamespace(schedule=timer))
    try:
        with caplog.at_level("INFO"):
            act(ending)
        by_id = lines != ["group"]
        assert [request.id for request in requests] == (["a"] if by_id else [])
        assert ("a" in state.revoked) is by_id
    finally:
        for task_id in "ab":
            state.revoked.discard(task_id)
    ending_is = "cannot store the cancel of {}: this worker is ending; another worker must store it"
    *before, last = lines or [""]
    assert log_lines(caplog) == [*before, *([ending_is.format(last)] if last else [])]


async def test_a_cancel_that_cannot_be_stored_is_logged_and_holds_for_the_workers_that_received_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = AsyncMock(side_effect=Deferred(1_000, "Redis does not answer"))
    runtime = SimpleNamespace(cancellations=SimpleNamespace(store=store))
    monkeypatch.setattr(cancel.Runtime, "current", lambda: runtime)
    assert await cancel._store(["a", "b"]) == ["a", "b"]
    assert await cancel._store([]) == []
    store.assert_awaited_once_with(["a", "b"])
    monkeypatch.setattr(cancel, "running_among", AsyncMock(side_effect=OSError))
    await cancel._store_states(None, ["a", "b"])
    first, second = log_lines(caplog)
    assert first.startswith("cannot store the cancel of a, b (Redis does not answer); workers that")
    assert second == (
        "cannot store the state of 2 cancelled jobs (OSError); the workers that take them store it"
    )


async def test_the_state_of_a_job_that_runs_is_left_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = list[Any]()
    monkeypatch.setattr(cancel, "running_among", AsyncMock(return_value={"b"}))
    monkeypatch.setattr(cancel, "store_revoked", lambda _, ids: stored.extend(ids))
    await cancel._store_states(None, ["a", "b", "c"])
    assert stored == ["a", "c"]


@pytest.mark.parametrize(
    "error",
    [
        OperationalError(),
        ChannelError(),
        ConnectionError(),
        RedisError(),
        OSError(),
        TimeoutError(),
    ],
)
async def test_a_job_perhaps_runs_if_the_workers_cannot_be_asked(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "worker.cancellations")

    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cancellations, "running_among", broken)
    outcomes = await cancellations._running_outcomes(None, ["a", "b"])
    assert outcomes == {"a": "perhaps_running", "b": "perhaps_running"}
    [log_line] = caplog.messages
    assert f"which worker runs a cancelled job ({type(error).__name__})" in log_line


@pytest.mark.parametrize(
    ("job_id", "stamps", "is_kept"),
    [
        ("a", {"group": "g"}, True),
        ("a", {}, False),
        ("a", None, False),
        ("a", ["group"], False),  # written by a stranger
        (None, {"group": "g"}, False),  # called directly
    ],
)
def test_the_stamps_of_a_job_are_known_while_it_runs(
    job_id: str | None, stamps: Any, *, is_kept: bool
) -> None:
    with cancellations.stamped(SimpleNamespace(id=job_id, stamps=stamps)):
        assert list(cancellations._stamps) == ([job_id] if is_kept else [])
    assert cancellations._stamps == {}


class _Cancels:
    """Stored cancels, which some number of workers receive."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.cancelled: list[tuple[list[str], str]] = []

    async def cancel(self, ids: list[str], *, by: str) -> int:
        self.cancelled.append((ids, by))
        return self.workers


# How many workers receive it, which jobs run (None: the broker does not say), and the result.
@pytest.mark.parametrize(
    ("workers", "running", "outcomes", "stored"),
    [
        (0, {"b"}, {"b": "cancelled", "d": "cancelled"}, ["b", "d"]),
        (2, {"b"}, {"b": "running", "d": "cancelled"}, []),
        (2, set(), {"b": "cancelled", "d": "cancelled"}, []),
        (2, None, {"b": "perhaps_running", "d": "perhaps_running"}, []),
    ],
)
async def test_of_several_jobs_each_has_an_outcome(
    workers: int,
    running: set[str] | None,
    outcomes: dict[str, str],
    stored: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    among = (
        AsyncMock(return_value=running) if running is not None else AsyncMock(side_effect=OSError)
    )
    monkeypatch.setattr(cancellations, "running_among", among)
    states = {"a": "SUCCESS", "b": "PENDING", "c": "FAILURE", "d": "RETRY"}
    ends: list[Any] = []
    backend = SimpleNamespace(
        get_task_meta=lambda job, **_: {"status": states[job]},
        store_ends=lambda *given, **options: ends.append((given, options)),
    )
    cancels: Any = _Cancels(workers)
    app = SimpleNamespace(backend=backend)
    known = await cancellations.cancel_jobs(app, cancels, list(states), by="ann")
    assert known == {"a": "SUCCESS", "c": "FAILURE"} | outcomes
    assert cancels.cancelled == [(["b", "d"], "ann")]
    for (jobs, state_of_all), options in ends:
        assert [(job, str(error), chain) for job, error, chain in jobs] == [
            (job, "revoked", None) for job in stored
        ]
        assert (state_of_all, options) == ("REVOKED", {"over_ends": False})
    assert len(ends) == bool(stored)
    cancels.cancelled.clear()
    assert await cancellations.cancel_jobs(app, cancels, ["a"], by="ann") == {"a": "SUCCESS"}
    assert cancels.cancelled == [], "jobs that have ended are not cancelled"


# Redis' reply, the job that it is about, how long it counts, and whether that is enough.
@pytest.mark.parametrize(
    ("cancelled", "job_id", "counts_s", "clear"),
    [
        (set(), "a", 60.0, True),
        ({"b"}, "a", 60.0, True),
        ({"a"}, "a", 60.0, False),
        (set(), "a", -1.0, False),  # too long ago
        (set(), "", 60.0, False),  # a call without a job
        (RedisError(), "a", 60.0, False),
        (None, "a", 60.0, False),  # this loop has not read stored cancels
    ],
)
async def test_an_early_look_counts_if_redis_said_just_now_that_nobody_cancelled(
    cancelled: Any, job_id: str, counts_s: float, monkeypatch: pytest.MonkeyPatch, *, clear: bool
) -> None:
    async def look() -> set[str]:
        if isinstance(cancelled, Exception):
            raise cancelled
        return set(cancelled)

    monkeypatch.setattr(cancellations, "_EARLY_S", counts_s)
    if cancelled is not None:
        known: Any = SimpleNamespace(begin=lambda _: asyncio.ensure_future(look()))
        cancellations.use(known)
    assert await cancellations.EarlyLook(job_id).is_clear(job_id) is clear


def test_each_stamp_is_named_in_the_same_way_by_a_message_and_by_a_revoke() -> None:
    stamps = cancellations.stamps_in({"group": ["g", None, 7], "tenant": "acme"})
    assert len(set(stamps)) == 3
    assert cancellations.stamps_in({"group": "g"}) == stamps[:1]
    assert cancellations.stamps_in({"tenant": ("acme",)}) == stamps[2:]
    assert cancellations.stamps_in({"other": "g"}) != stamps[:1]
    assert cancellations.stamps_in(None) == cancellations.stamps_in({}) == ()
    assert not [stamp for stamp in stamps if "acme" in stamp], "a value may be confidential"


async def test_a_worker_ends_though_each_of_its_listeners_swallows_a_cancel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-py does that before Python 3.12: a worker took ten seconds more to end."""
    begun = list[str]()

    async def swallow_one_cancel(*_: Any, **__: Any) -> None:
        begun.append("one")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr(cancelling, "CANCEL_INTERVAL_S", 0.01)
    monkeypatch.setattr(cancel, "listen", swallow_one_cancel)
    monkeypatch.setattr(Cancelling, "_act", swallow_one_cancel)
    monkeypatch.setattr(cancel.Runtime, "current", SimpleNamespace)
    for name in ("_startups", "_shutdowns"):
        monkeypatch.setattr(lifespan, name, [])
    monkeypatch.setattr(lifespan, "_background", set())
    Cancelling(SimpleNamespace(pool=None, timer=None, queue_pauser=SimpleNamespace(run_held=None)))
    lifespan.begin()
    tasks = list(lifespan._background)
    await asyncio.sleep(0)
    assert len(begun) == 2
    await lifespan.end(patience_s=1)
    assert all(task.done() for task in tasks)
