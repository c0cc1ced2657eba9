"""The pool's threads, greenlets and limits keep nothing of jobs that are over."""

import asyncio
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest

from worker.aio import bridge
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.task_limits import TaskLimits
from worker.aio.threads import DaemonThreads


class Value:
    """Something of a job's."""


def wait_for(gate: threading.Event, begun: threading.Event) -> bool:
    begun.set()
    return gate.wait(10)


def test_an_idle_thread_keeps_nothing_of_its_last_call() -> None:
    threads, begun = DaemonThreads(1, name="t"), threading.Event()
    references: list[ref[Any]] = []

    def work(argument: Value) -> Value:
        result = Value()
        references.extend((ref(argument), ref(result)))
        return result

    def fail(argument: Value) -> None:
        references.append(ref(argument))
        raise KeyError(argument)

    assert isinstance(threads.submit(work, Value()).result(10), Value)
    with pytest.raises(KeyError):
        threads.submit(fail, Value()).result(10)
    # The thread takes this one once it is done with those before it, and waits in it.
    gate = threading.Event()
    last = threads.submit(wait_for, gate, begun)
    assert begun.wait(10)
    assert [each() for each in references] == [None, None, None]
    gate.set()
    last.result(10)
    threads.shutdown()


def test_a_thread_prepares_itself_and_passes_over_cancelled_calls() -> None:
    prepared: list[str] = []
    threads = DaemonThreads(
        1, name="t", prepare=lambda: prepared.append(threading.current_thread().name)
    )
    begun, gate = threading.Event(), threading.Event()
    first = threads.submit(wait_for, gate, begun)
    assert begun.wait(10)
    second, third = threads.submit(str, 2), threads.submit(str, 3)
    assert second.cancel()
    gate.set()
    assert third.result(10) == "3"
    assert first.result(10)
    assert threads.submit(str, 4).result(10) == "4"
    assert (prepared, threads.alive) == (["t-1"], 1)
    threads.shutdown()


async def test_a_greenlet_serves_one_job_after_the_other_until_there_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge, "_KEPT", 2)
    threads = DaemonThreads(1, name="t")
    greenlets = bridge.JobGreenlets(threads)

    async def run(number: int, greenlet: Any) -> None:
        assert await bridge.drive(greenlet, lambda exc: exc) == number

    def take(number: int) -> Any:
        return greenlets.take(lambda: number, asyncio.current_task())

    three = [take(number) for number in range(3)]
    for number, greenlet in enumerate(three):
        await run(number, greenlet)
        assert greenlet.ended
        greenlets.give_back(greenlet)
        assert greenlet.driver is None
    again = [take(number) for number in (7, 8, 9)]
    assert again[:2] == [three[1], three[0]]
    assert again[2] not in three
    unfinished = again.pop()
    greenlets.give_back(unfinished)  # its code has not run
    for number, greenlet in zip((7, 8), again, strict=True):
        assert greenlet.driver is asyncio.current_task()
        await run(number, greenlet)
    greenlets.give_back(again[0])
    greenlets.close()
    greenlets.give_back(again[1])
    assert take(1) not in three
    threads.shutdown()


def job(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_jobs_beyond_their_tasks_limit_wait_in_their_order() -> None:
    limits = TaskLimits()
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=2))
    limits.set_from(SimpleNamespace(name="b"))
    jobs = [job("a") for _ in range(4)]
    assert [limits.admit(each) for each in jobs] == [True, True, False, False]
    assert [limits.admit(job("b")) for _ in range(9)] == [True] * 9
    assert limits.waiting() == (deque(jobs[2:]),)
    assert [limits.release(jobs[0])] == [jobs[2]]
    assert limits.admit(jobs[2]) is True
    assert limits.admit(jobs[0]) is False
    assert limits.release(job("b")) is None
    assert [limits.release(jobs[1])] == [jobs[3]]
    assert [limits.release(jobs[2])] == [jobs[0]]
    assert limits.release(jobs[3]) is None
    limits.release(jobs[3])  # no more than run
    assert [limits.admit(each) for each in jobs] == [True, True, False, False]
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=None))
    assert limits.admit(job("a")) is True
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=3))
    assert [limits.admit(each) for each in jobs[:1]] == [False], "three of them run"
    limits.set_from(SimpleNamespace(name="a", concurrency_limit=4))
    assert limits.admit(job("a")) is True


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2"])
def test_a_limit_is_a_positive_whole_number(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"^a\.concurrency_limit must be a positive whole number,"):
        TaskLimits().set_from(SimpleNamespace(name="a", concurrency_limit=limit))


def test_calls_wake_the_consumer_once_and_again_only_while_some_wait() -> None:
    calls, woken = ConsumerCalls(), list[int]()
    calls.attach(SimpleNamespace(add_reader=lambda *_: None))
    calls._write = lambda: woken.append(1)  # type: ignore[method-assign]
    calls.wake()
    assert woken == []
    seen: list[int] = []
    for number in range(3):
        calls.post(seen.append, number)
    assert len(woken) == 1
    calls.wake()
    assert len(woken) == 2
    calls.drain()
    calls.wake()
    assert (len(woken), seen) == (2, [0, 1, 2])
    calls.close(None)


def test_a_pipe_that_is_full_or_empty_holds_nobody_up() -> None:
    calls, seen = ConsumerCalls(), list[int]()
    calls.attach(SimpleNamespace(add_reader=lambda *_: None))
    for _ in range(2**16 + 1):  # more than it holds
        calls._write()
    calls.post(seen.append, 1)
    for _ in range(2**16 // 4096 + 2):  # more than it has
        calls.drain()
    assert seen == [1]
    calls.close(None)
