"""The threads of the pool, which keep no object of jobs that have ended."""

import threading
from concurrent.futures import Future
from typing import Any
from weakref import ref

import pytest

from worker.aio.threads import DaemonThreads


def test_threads_are_daemons_started_as_needed_and_bounded() -> None:
    threads = DaemonThreads(2, name="t")
    gate = threading.Event()
    seen: set[str] = set()

    def work() -> None:
        assert threading.current_thread().daemon
        seen.add(threading.current_thread().name)
        gate.wait(10)

    futures = [threads.submit(work) for _ in range(6)]
    assert threads.alive == 2
    gate.set()
    for future in futures:
        future.result(10)
    assert seen == {"t-1", "t-2"}
    assert threads.submit(sum, (1, 2)).result(10) == 3
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(10)
    threads.shutdown()
    threads.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(work)


def test_one_thread_serves_jobs_that_come_one_after_the_other() -> None:
    threads = DaemonThreads(8, name="t")
    for n in range(20):
        assert threads.submit(int, n).result(10) == n
        assert isinstance(threads.submit(int, "x").exception(10), ValueError)
    assert threads.alive == 1
    threads.shutdown()


@pytest.mark.parametrize("cancels", [True, False])
def test_calls_that_wait_when_the_threads_end_are_cancelled_or_made(*, cancels: bool) -> None:
    threads, began, gate = DaemonThreads(1, name="t"), threading.Event(), threading.Event()

    def work() -> bool:
        began.set()
        return gate.wait(10)

    running = threads.submit(work)
    waiting = [threads.submit(str, number) for number in range(3)]
    assert began.wait(10)
    threads.shutdown(cancel_futures=cancels)
    threads.shutdown(cancel_futures=True)  # a second call does nothing
    gate.set()
    assert running.result(10)
    if not cancels:
        assert [call.result(10) for call in waiting] == ["0", "1", "2"]
    assert [call.cancelled() for call in waiting] == [cancels] * 3


def test_a_thread_that_is_written_off_is_replaced_if_a_call_waits_for_one() -> None:
    threads, gate = DaemonThreads(1, name="t"), threading.Event()
    stuck, waiting = threads.submit(gate.wait), threads.submit(lambda: "done")
    threads.write_off(0)
    assert threads.alive == 1
    threads.write_off(1)
    assert waiting.result(10) == "done"
    assert threads.alive == 2
    threads.write_off(1)
    assert threads.alive == 2, "no call waits"
    gate.set()
    assert stuck.result(10)
    threads.shutdown()


def test_a_call_that_was_cancelled_while_it_waited_leaves_its_thread_to_the_next() -> None:
    threads, gate = DaemonThreads(1, name="t"), threading.Event()
    running, waiting = threads.submit(gate.wait), threads.submit(gate.wait)
    assert waiting.cancel()
    gate.set()
    assert running.result(10)
    assert threads.submit(sum, (1, 2)).result(10) == 3
    threads.write_off(1)
    assert threads.alive == 1, "no call waits"
    assert threads.submit(sum, (1, 2)).result(10) == 3
    assert threads.alive == 1
    threads.shutdown()


def test_each_thread_is_prepared_first_and_ends_with_the_executor() -> None:
    prepared: list[str] = []
    before = set(threading.enumerate())
    threads = DaemonThreads(
        2, name="t", prepare=lambda: prepared.append(threading.current_thread().name)
    )
    together = threading.Barrier(2)
    calls: list[Future[int]] = [threads.submit(together.wait, 10) for _ in range(2)]
    assert sorted(call.result(10) for call in calls) == [0, 1]
    assert sorted(prepared) == ["t-1", "t-2"]
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    threads.shutdown()
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()
    threads.write_off(1)
    assert threads.alive == 2, "no further thread starts"


def test_threads_that_are_written_off_are_counted_until_they_are_free_again() -> None:
    threads, gate = DaemonThreads(1, name="t"), threading.Event()
    stuck = threads.submit(gate.wait)
    threads.write_off(1)
    assert threads.submit(sum, (1, 2)).result(10) == 3
    threads.write_off(-1)
    gate.set()
    assert stuck.result(10)
    blocked, began = threading.Event(), [threading.Event() for _ in range(3)]

    def block(number: int) -> bool:
        began[number].set()
        return blocked.wait(10)

    calls = [threads.submit(block, number) for number in range(3)]
    assert began[0].wait(10)
    assert began[1].wait(10)
    assert not began[2].is_set(), "there are two threads, and a third one is not started"
    assert threads.alive == 2
    blocked.set()
    assert all(call.result(10) for call in calls)
    threads.shutdown()


class Value:
    """An object of a job."""


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
    # The thread takes this call after the earlier ones, and waits in it.
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
