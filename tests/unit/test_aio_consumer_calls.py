"""Calls that other threads post to the consumer's."""

import threading
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
