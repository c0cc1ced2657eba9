"""A worker's reaction to a cancel that it receives, and how a cancel is stored."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery.worker import state
from celery.worker.request import Request
from redis.exceptions import ConnectionError as LostError

from worker import cancellations as cancellations_module
from worker.aio import reports, revoking
from worker.cancellations import KEPT_S, Cancellations, stamps_in
from worker.hooks import cancel as cancel_module
from worker.hooks.cancel import Cancelling
from worker.runtime import Runtime


class Worker:
    """A worker's parts, whose calls are noted in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = calls = Mock()
        self.runtime: Any = SimpleNamespace(
            cancellations=SimpleNamespace(store=AsyncMock(side_effect=calls.store)),
            end_waiting=calls.end_waiting,
            streams=calls.streams,
            wake_jobs=AsyncMock(side_effect=calls.wake_jobs),
            waiting_with=AsyncMock(side_effect=calls.waiting_with),
        )
        monkeypatch.setattr(Runtime, "current", lambda: self.runtime)
        self.cancelling = Cancelling.__new__(Cancelling)
        self.cancelling._consumer = SimpleNamespace(
            pool=SimpleNamespace(calls=SimpleNamespace(post=calls.post)), queue_pauser=Mock()
        )
        self.cancelling._heard = asyncio.Queue()


@pytest.fixture
async def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def acts(ids: list[str], new: list[str], end_here: Any) -> list[Any]:
    """The actions after a cancel: the streams of jobs unknown to all other workers are closed."""
    closed = [
        each
        for task_id in new
        for each in (
            call.streams.open(task_id),
            call.streams.open().close_from_outside(
                creates=False,
                status="failed",
                error="TaskRevokedError",
                reason="the job was revoked",
            ),
        )
    ]
    return [
        call.store(ids),
        call.end_waiting(frozenset(ids)),
        call.post(end_here, frozenset(ids), sorted(new)),
        *closed,
        call.wake_jobs(new),
    ]


async def test_a_cancel_ends_the_job_here_and_its_stream_once_in_all_workers(
    worker: Worker,
) -> None:
    worker.calls.store.return_value = ["b", "a"]
    await worker.cancelling._store_and_wake(["b", "a", "c"])
    steps = acts(["b", "a", "c"], ["b", "a"], worker.cancelling._end_here)
    assert worker.calls.mock_calls == steps


async def test_cancels_that_come_together_are_stored_together(worker: Worker) -> None:
    worker.calls.store.return_value = []
    for task_id in "abc":
        worker.cancelling._heard.put_nowait(task_id)
    acting = asyncio.create_task(worker.cancelling._act())
    while not worker.calls.wake_jobs.called:  # noqa: ASYNC110 - each turn of the loop
        await asyncio.sleep(0)
    worker.cancelling._heard.put_nowait("d")
    while worker.calls.wake_jobs.call_count < 2:  # noqa: ASYNC110 - the same
        await asyncio.sleep(0)
    acting.cancel()
    assert worker.calls.store.call_args_list == [call(["a", "b", "c"]), call(["d"])]


# The stamps that no other worker has stored, and the deferred jobs with one of them.
@pytest.mark.parametrize(
    ("new", "waiting", "ended"),
    [(["x"], ["a", "b"], True), (["x"], [], False), ([], ["a"], False)],
)
async def test_a_stamp_ends_the_deferred_jobs_that_have_it(
    worker: Worker, new: list[str], waiting: list[str], *, ended: bool
) -> None:
    worker.calls.store.side_effect = lambda ids: new if ids == stamps_in({"s": "v"}) else ids
    worker.calls.waiting_with.return_value = waiting
    await worker.cancelling._store_stamps({"s": "v"})
    assert worker.calls.waiting_with.called is bool(new)
    assert worker.calls.wake_jobs.call_args_list == [call(waiting)] * ended


class Redis:
    """Notes the commands of a round trip, and replies to them."""

    def __init__(self, *answers: Any) -> None:
        self.connection_pool = SimpleNamespace(connection_kwargs={})
        self.pipe = Mock(execute=AsyncMock(side_effect=list(answers)))

    def pipeline(self, *, transaction: bool) -> Any:
        assert not transaction
        return self.pipe


@pytest.mark.parametrize(("ids", "name"), [(["a"], "a"), (["a", "b"], "2 jobs")])
async def test_a_cancel_is_noted_stored_and_published(ids: list[str], name: str) -> None:
    redis = Redis([None, 1, 2, 7])
    cancellations = Cancellations(redis, namespace="ns")  # type: ignore[arg-type]
    cancellations._actions = Mock()
    assert await cancellations.cancel(ids, by="ann") == 7
    assert cancellations._actions.add.call_args == call(
        "cancelled", scope="job", name=name, by="ann", pipe=redis.pipe
    )
    commands = [
        each
        for task_id in ids
        for each in (
            call.set(f"ns:cancelled:{task_id}", "1", ex=KEPT_S),
            call.publish("ns:cancelled", task_id),
        )
    ]
    assert redis.pipe.mock_calls == [*commands, call.execute()]


async def test_of_many_workers_one_closes_the_stream_of_a_cancelled_job() -> None:
    redis = Redis(LostError("gone"), [None, "told", "1"])
    cancellations = Cancellations(redis, namespace="ns")  # type: ignore[arg-type]
    assert await cancellations.store(["a", "b", "c"]) == ["a", "c"]
    stored = [call.set(f"ns:cancelled:{task_id}", "told", ex=KEPT_S, get=True) for task_id in "abc"]
    assert redis.pipe.mock_calls == [*stored, call.execute()] * 2
    assert redis.pipe.execute.await_count == 2


async def test_a_job_runs_if_redis_does_not_say_whether_it_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known: Any = SimpleNamespace(has=AsyncMock(side_effect=LostError("gone")))
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(cancellations_module, "_BY_LOOP", {loop: known})
    with caplog.at_level("DEBUG", "worker"):
        assert not await cancellations_module.is_cancelled("a", patiently=False)
    assert "cannot read whether a is cancelled (ConnectionError)" in caplog.text
    known.has = AsyncMock(return_value=True)
    assert not await cancellations_module.is_cancelled("")
    try:
        assert await cancellations_module.is_cancelled("a", patiently=False)
        assert "a" in state.revoked
        known.has.reset_mock()
        assert await cancellations_module.is_cancelled("a")
        known.has.assert_not_called()
    finally:
        state.revoked.discard("a")


# Whether Celery still knows that the job was revoked, or fails; the fate of its message.
@pytest.mark.parametrize(("revoked", "settled"), [(True, []), (False, [call(requeue=True)])])
def test_a_job_that_was_revoked_in_the_pool_ends_or_goes_back(
    monkeypatch: pytest.MonkeyPatch, *, revoked: bool, settled: list[Any]
) -> None:
    request, settle = Mock(**{"revoked.return_value": revoked}), Mock()
    monkeypatch.setattr(reports, "settle", settle)
    revoking.announce(request)
    assert request.reject.call_args_list == settled
    settle.assert_not_called()
    request.reject.reset_mock()
    request.revoked.side_effect = error = OSError("away")
    revoking.announce(request)
    settle.assert_called_once_with(request, error)
    request.reject.assert_not_called()
    stranger: Any = SimpleNamespace(id="a")
    assert not revoking.is_revoked(stranger)
    monkeypatch.setattr(state, "revoked", {"a"})
    request_of_ours = Request.__new__(Request)
    request_of_ours.id = "a"
    assert revoking.is_revoked(request_of_ours)
    assert not revoking.is_revoked(stranger)


async def test_a_worker_listens_and_acts_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    background: list[Any] = []
    used, heard, pauser = Mock(), AsyncMock(), Mock()
    parent = SimpleNamespace(pool=SimpleNamespace(calls="calls"), timer="t", queue_pauser=pauser)
    monkeypatch.setattr(cancel_module.lifespan, "on_startup", background.append)
    monkeypatch.setattr(cancel_module.revoked_jobs, "use", used)
    monkeypatch.setattr(cancel_module, "listen", heard)
    monkeypatch.setattr(Runtime, "current", lambda: "runtime")
    step = Cancelling(parent)
    assert parent.cancelling is step, "the commands find the step there"  # type: ignore[attr-defined]
    used.assert_called_once_with("calls", "t")
    assert background == [step._listen, step._act]
    await step._listen()
    [listening] = heard.mock_calls
    assert (listening.args, listening.kwargs["on_reset"]) == (("runtime",), pauser.run_held)
    listening.kwargs["on_cancelled"]("a")
    assert step._heard.get_nowait() == "a"
