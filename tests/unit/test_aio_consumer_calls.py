"""Calls that other threads post to the consumer's thread."""

import asyncio
import os
import select
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from worker.aio.consumer_calls import ConsumerCalls


def test_calls_keep_their_order_survive_errors_and_a_shutdown_raised_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hub:
        def add_reader(self, _fd: int, callback: Any) -> None:
            self.callback = callback

        def remove(self, _fd: int) -> None:
            raise OSError

    calls, hub, seen = ConsumerCalls(), Hub(), []
    calls.attach(hub)

    def fail() -> None:
        raise ValueError("callback")

    def leave() -> None:
        raise SystemExit

    for function, args in ((seen.append, (1,)), (fail, ()), (leave, ()), (seen.append, (2,))):
        calls.post(function, *args)
    with pytest.raises(SystemExit):
        hub.callback()
    assert seen == [1]
    calls.wait(60)
    assert seen == [1, 2]
    assert "a callback of the pool raised" in caplog.text
    calls.close(hub)
    calls.close(hub)
    calls.post(seen.append, 3)
    calls.wait(0)
    assert seen == [1, 2, 3]


def test_a_consumer_without_a_hub_waits_for_the_call_that_another_thread_posts() -> None:
    calls, seen, read = ConsumerCalls(), list[int](), threading.Event()
    calls.attach(SimpleNamespace(add_reader=lambda *_: None))  # the hub has stopped

    def post() -> None:
        if not read.wait(0.05):
            calls.post(seen.append, 1)

    poster = threading.Thread(target=post)
    poster.start()
    calls.wait(20)
    read.set()
    assert seen == [1]
    poster.join()
    calls.close(None)


class Hub:
    """Notes what it should read, and reads nothing."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, Callable[[], None]]] = []
        self.removed: list[int] = []

    def add_reader(self, reader: int, callback: Callable[[], None]) -> None:
        self.reads.append((reader, callback))

    def remove(self, reader: int) -> None:
        self.removed.append(reader)

    def wakes(self) -> int:
        """How often it was woken since the last call."""
        [(reader, _)] = self.reads
        count = 0
        while select.select([reader], [], [], 0)[0]:
            count += len(os.read(reader, 4096))
        return count


@pytest.fixture
def calls() -> Iterator[ConsumerCalls]:
    fresh = ConsumerCalls()
    yield fresh
    fresh.close(None)


async def test_the_hub_is_woken_once_in_a_turn_of_the_loop_and_at_once_from_elsewhere(
    calls: ConsumerCalls,
) -> None:
    hub, seen = Hub(), list[int]()
    calls.attach(hub)
    calls.gather_on(asyncio.get_running_loop())
    for number in range(3):
        calls.post(seen.append, number)
    assert hub.wakes() == 0
    await asyncio.sleep(0)
    assert hub.wakes() == 1
    calls.post(seen.append, 3)
    await asyncio.sleep(0)
    assert hub.wakes() == 0, "the consumer has not read its calls yet"
    calls.drain()
    assert seen == [0, 1, 2, 3]
    poster = threading.Thread(target=calls.post, args=(seen.append, 4))
    poster.start()
    poster.join()
    assert hub.wakes() == 1, "the hub wakes at once, because the loop has not turned"
    await asyncio.sleep(0)
    assert hub.wakes() == 0


def test_calls_that_were_posted_reach_the_hub_although_the_loop_is_blocked(
    calls: ConsumerCalls,
) -> None:
    hub, seen = Hub(), list[int]()
    calls.attach(hub)
    calls.wake()
    assert hub.wakes() == 0, "no call waits"
    loop = asyncio.new_event_loop()
    calls.gather_on(loop)

    async def block() -> None:
        calls.post(seen.append, 1)
        calls.wake()  # as the watchdog does
        assert hub.wakes() == 1

    loop.run_until_complete(block())
    loop.close()
    hub.reads[0][1]()
    assert seen == [1]


def test_without_a_hub_a_call_is_made_at_once_and_nobody_reads(calls: ConsumerCalls) -> None:
    seen = list[int]()
    assert not calls.is_read_here
    calls.post(seen.append, 1)
    assert seen == [1]
    hub = Hub()
    calls.attach(hub)
    assert calls.is_read_here
    calls.post(seen.append, 2)
    assert seen == [1]
    calls.close(hub)
    assert hub.removed == [hub.reads[0][0]]
    calls.wake()  # nothing is written to a closed pipe
    calls.drain()
    assert seen == [1, 2]


def test_a_post_never_waits_for_the_hub(calls: ConsumerCalls) -> None:
    """A full pipe wakes the hub as well."""
    hub = Hub()
    calls.attach(hub)
    calls.post(lambda: None)
    for _ in range(100_000):
        calls.wake()
    calls.drain()
    calls.drain()


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
    for _ in range(2**16 + 1):  # more than the pipe holds
        calls._write()
    calls.post(seen.append, 1)
    for _ in range(2**16 // 4096 + 2):  # more reads than the pipe needs
        calls.drain()
    assert seen == [1]
    calls.close(None)
