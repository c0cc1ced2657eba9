"""The pool's small parts."""

import asyncio
import inspect
import pickle
import sys
import threading
import traceback
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from weakref import ref

import pytest
from billiard.einfo import ExceptionInfo
from celery.app import trace
from celery.exceptions import ImproperlyConfigured
from celery.utils.saferepr import saferepr
from celery.worker import state
from celery.worker.request import Request

from worker.aio import bridge, revoking, stacks, tracing
from worker.aio.loop_thread import new_loop
from worker.aio.threads import DaemonThreads
from worker.aio.transport import Channel
from worker.aio.transport.qos import TransportQoS


def test_uvloop_has_to_be_there_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    new_loop("auto").close()
    with pytest.raises(ImportError):
        new_loop("uvloop")


def test_stacks_of_another_kind_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="USE_FAST_LOCALS"):
        stacks.share(object())


async def test_the_bridge_awaits_from_plain_code_and_hands_cancellation_in() -> None:
    threads = DaemonThreads(1, name="t")
    seen: list[str] = []

    def plain() -> str:
        assert bridge.is_bridged()
        seen.append(bridge.wait(asyncio.sleep(0, "slept")))
        seen.append(bridge.call(lambda: threading.current_thread().name))
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "future")
        seen.append(bridge.wait(future))
        with pytest.raises(ZeroDivisionError):
            bridge.call(lambda: 1 / 0)
        try:
            bridge.wait(asyncio.sleep(30))
        except asyncio.CancelledError:
            seen.append("cancelled")
        return "end"

    async def drive() -> Any:
        return await bridge.drive(bridge.JobGreenlet(plain, threads), lambda exc: exc)

    task = asyncio.create_task(drive())
    while len(seen) < 3:  # noqa: ASYNC110 - set from plain code in a greenlet
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    task.cancel()
    assert await task == "end"
    assert seen == ["slept", "t-1", "future", "cancelled"]
    assert not bridge.is_bridged()
    assert bridge.call(threading.current_thread) is threading.main_thread()
    threads.shutdown()


async def test_an_idle_greenlet_keeps_nothing_of_its_job() -> None:
    class Answer:
        pass

    def plain() -> Answer:
        answer = Answer()
        answers.append(ref(answer))
        return answer

    answers: list[ref[Answer]] = []
    threads = DaemonThreads(1, name="t")
    greenlets = bridge.JobGreenlets(threads)
    greenlet = greenlets.take(plain, asyncio.current_task())
    assert isinstance(await bridge.drive(greenlet, lambda exc: exc), Answer)
    greenlets.give_back(greenlet)
    assert [each() for each in answers] == [None]
    assert (greenlet.driver, greenlet.gr_context) == (None, None)
    task = asyncio.current_task()
    assert greenlets.take(plain, task) is greenlet, "the next job has it"
    assert (greenlet.driver, greenlet.executor) == (task, threads)
    greenlets.give_back(greenlet)  # its job has not ended
    other = greenlets.take(plain, task)
    assert other is not greenlet
    for each in (greenlet, other):
        assert isinstance(await bridge.drive(each, lambda exc: exc), Answer)
    greenlets.give_back(greenlet)
    greenlets.close()
    greenlets.give_back(other)
    assert greenlets.take(plain, task) not in {greenlet, other}, "none is kept any more"
    threads.shutdown()


async def test_a_bounded_number_of_idle_greenlets_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_KEPT", 2)
    threads = DaemonThreads(1, name="t")
    greenlets, task = bridge.JobGreenlets(threads), asyncio.current_task()
    used = [greenlets.take(lambda: None, task) for _ in range(3)]
    for each in used:
        await bridge.drive(each, lambda exc: exc)
        greenlets.give_back(each)
    again = [greenlets.take(lambda: None, task) for _ in range(3)]
    assert len({*used} & {*again}) == 2
    assert len({*again}) == 3
    threads.shutdown()


async def test_the_errors_and_results_of_an_awaitable_reach_the_plain_code() -> None:
    threads = DaemonThreads(1, name="t")

    class Patient:
        """It awaits on after an error."""

        def __await__(self) -> Any:
            try:
                yield from asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                yield from asyncio.sleep(0).__await__()
                return "patient"

    def plain() -> list[Any]:
        seen: list[Any] = [bridge.wait(Patient())]
        try:
            bridge.wait(asyncio.wait_for(asyncio.Event().wait(), 0))
        except TimeoutError:
            seen.append("late")
        return seen

    async def drive() -> Any:
        return await bridge.drive(bridge.JobGreenlet(plain, threads), lambda exc: exc)

    task = asyncio.create_task(drive())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    assert await task == ["patient", "late"]
    threads.shutdown()


async def test_a_blocking_call_outlives_one_cancellation_but_not_two() -> None:
    threads = DaemonThreads(2, name="t")
    gate, began = threading.Event(), threading.Event()
    done: list[str] = []

    def blocking() -> str:
        began.set()
        gate.wait(10)
        done.append("done")
        return "value"

    def plain() -> None:
        bridge.call(blocking)

    async def drive() -> Any:
        return await bridge.drive(bridge.JobGreenlet(plain, threads), lambda exc: exc)

    for cancellations in (1, 2):
        gate.clear()
        began.clear()
        done.clear()
        task = asyncio.create_task(drive())
        while not began.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.01)
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0.02)
        assert task.done() == (cancellations == 2)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        if cancellations == 1:
            assert done == ["done"]
    threads.shutdown()


def test_tracebacks_share_the_positions_of_their_code_and_read_as_billiards_do() -> None:
    def failed() -> Any:
        try:
            return int("x")
        except ValueError:
            return ExceptionInfo()

    stock = failed()
    tracing.install()
    try:
        shared, again = failed(), failed()
    finally:
        tracing.uninstall()
    assert traceback.format_tb(shared.tb) == traceback.format_tb(stock.tb)
    copied = pickle.loads(pickle.dumps(shared.tb))  # noqa: S301 - ours
    assert traceback.format_tb(copied) == traceback.format_tb(stock.tb)
    assert shared.tb.tb_frame.f_code._co_positions is again.tb.tb_frame.f_code._co_positions


@pytest.mark.parametrize(
    "value",
    [
        {"text": "x" * 5_000, "usage": {"tokens": [1, 2]}},
        {},
        {"a": {}},
        [1, 2],
        "text",
        None,
        12345,
    ],
)
@pytest.mark.parametrize("longest", [1, 2, 1024, None])
def test_a_result_is_represented_as_celery_does(value: Any, longest: int | None) -> None:
    tracing.install()
    try:
        assert trace.saferepr(value, longest) == saferepr(value, longest)
    finally:
        tracing.uninstall()
    assert trace.saferepr is saferepr


def test_a_hidden_result_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_stock_saferepr", None)
    assert tracing._short_repr({"text": "secret"}, 1) == "{, ...}"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Channel, "client"),
        (Channel, "subclient"),
        (TransportQoS, "unacked_key"),
        (TransportQoS, "unacked_index_key"),
        (TransportQoS, "leases_key"),
        (TransportQoS, "unreadable_key"),
    ],
)
def test_an_attribute_that_is_read_for_each_message_costs_no_call(owner: type, name: str) -> None:
    # Without `__set__` Python takes the value from the instance, without asking the descriptor.
    assert not hasattr(type(inspect.getattr_static(owner, name)), "__set__")


# A job's stamps, those that were revoked, and whether that revokes the job.
@pytest.mark.parametrize(
    ("stamps", "revoked", "is_revoked"),
    [
        ({"batch": "a"}, {"batch": ["a", "b"]}, True),
        ({"batch": ["a", "c"]}, {"batch": "c"}, True),
        ({"batch": "d", "day": "a"}, {"batch": ["a"]}, False),
        ({}, {"batch": ["a"]}, False),
    ],
)
def test_a_job_that_waits_in_the_pool_is_revoked_by_its_stamps(
    monkeypatch: pytest.MonkeyPatch,
    *,
    stamps: dict[str, Any],
    revoked: dict[str, Any],
    is_revoked: bool,
) -> None:
    monkeypatch.setattr(state, "revoked_stamps", revoked)
    request = Request.__new__(Request)
    request.id, request.expires = "job-1", None
    request._request_dict = {"stamps": stamps, "stamped_headers": list(stamps)}
    assert revoking.is_revoked(request) is is_revoked


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_job_that_waits_in_the_pool_is_over_when_it_expires(zone: timezone | None) -> None:
    request = Request.__new__(Request)
    request.id = "job-1"
    request.expires = datetime.now(zone) - timedelta(minutes=1)
    assert revoking.is_revoked(request)
    request.expires += timedelta(minutes=2)
    assert not revoking.is_revoked(request)
