"""The bridge by which plain code awaits, and the greenlets that it reuses."""

import asyncio
import threading
from typing import Any
from weakref import ref

import pytest

from worker.aio import bridge
from worker.aio.threads import DaemonThreads


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
    assert greenlets.take(plain, task) is greenlet, "the next job gets the greenlet"
    assert (greenlet.driver, greenlet.executor) == (task, threads)
    greenlets.give_back(greenlet)  # its job has not ended
    other = greenlets.take(plain, task)
    assert other is not greenlet
    for each in (greenlet, other):
        assert isinstance(await bridge.drive(each, lambda exc: exc), Answer)
    greenlets.give_back(greenlet)
    greenlets.close()
    greenlets.give_back(other)
    assert greenlets.take(plain, task) not in {greenlet, other}, "no greenlet is kept any more"
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
        """A coroutine that goes on awaiting after an error."""

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
