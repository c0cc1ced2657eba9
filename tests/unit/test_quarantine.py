"""Suspects: how deaths are counted, which job runs alone, and when the next one runs."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.worker import state
from kombu.common import QoS

from worker.hooks.quarantine import Quarantine, settle_deaths
from worker.jobs.history import ALONE, DEATHS

FAR = "2999-01-01T00:00:00+00:00"


# A message's own counts, and how many deaths are counted against it.
@pytest.mark.parametrize(
    ("headers", "count"),
    [
        ({}, 0),
        ({DEATHS: 1}, 1),
        ({DEATHS: 2}, 2),
        ({DEATHS: 9}, 2),  # all of them beside other jobs
        ({DEATHS: 2, ALONE: 2}, 2),  # it ran alone, and a worker that lived returned it
        ({DEATHS: 3, ALONE: 2}, 3),  # it died alone
        ({DEATHS: 7, ALONE: 2}, 3),  # it then waited in four workers that died
        ({DEATHS: 5, ALONE: 4}, 5),
        ({DEATHS: 1, ALONE: 4}, 1),  # from an earlier turn
        ({ALONE: 4}, 0),
        ({DEATHS: 3, ALONE: "2"}, 2),
        ({DEATHS: 3, ALONE: True}, 2),
        ({DEATHS: 3, ALONE: 1}, 2),
        ({DEATHS: "3", ALONE: 2}, 0),
        ({DEATHS: True}, 0),
        (None, 0),
        ([DEATHS], 0),
    ],
)
def test_deaths_count_beyond_the_second_only_if_a_message_ran_alone(
    headers: Any, count: int
) -> None:
    assert settle_deaths(headers) == count
    if count:
        assert headers == {DEATHS: count}


class Channel:
    def __init__(self) -> None:
        self.booked: list[dict[str, int]] = []
        self.refuses = False

    def add_headers(self, _: Any, headers: dict[str, int]) -> None:
        if self.refuses:
            raise redis.ResponseError("OOM")
        self.booked.append(headers)


class Message:
    """The parts of kombu's message that matter here."""

    def __init__(self, headers: dict[str, Any], channel: Any) -> None:
        self.headers, self.channel = headers, channel
        self.acknowledged = self.taken = False


class Request:
    """Celery's request of a job that has begun."""

    def __init__(self, message: Any) -> None:
        self.message = message


class Bench:
    """A quarantine whose consumer's clock is moved by hand."""

    def __init__(self, *, window: int = 3, most: int = 4) -> None:
        self.due: list[Callable[[], None]] = []
        timer = SimpleNamespace(call_after=lambda _, function: self.due.append(function))
        self.qos = QoS(lambda **_: None, window, max_prefetch=most)
        self.quarantine = Quarantine(SimpleNamespace(timer=timer, qos=self.qos))
        self.channel = Channel()
        self.ran: list[Any] = []

    def give(self, deaths: int = 2, **headers: Any) -> Any:
        message = Message({DEATHS: deaths, **headers}, self.channel)
        message.taken = self.quarantine.takes(message, self.ran.append)
        return message

    def tick(self) -> None:
        due, self.due = self.due, []
        for function in due:
            function()


def test_suspects_run_one_at_a_time_in_their_order_and_are_booked_before() -> None:
    bench = Bench()
    first, second, third = bench.give(), bench.give(4), bench.give()
    assert [message.taken for message in (first, second, third)] == [True] * 3
    assert bench.ran == [first]
    bench.tick()
    assert bench.ran == [first]
    first.acknowledged = True
    bench.tick()
    assert bench.ran == [first, second]
    second.acknowledged = True
    fourth = bench.give()  # it does not overtake the third
    bench.tick()
    assert bench.ran == [first, second, third]
    third.acknowledged = True
    bench.tick()
    assert bench.ran[-1] is fourth
    assert bench.channel.booked == [{DEATHS: count, ALONE: count} for count in (2, 4, 2, 2)]
    assert bench.due == []


def test_other_messages_are_not_suspects() -> None:
    bench = Bench()
    assert not bench.give(1).taken
    assert not bench.give(2, eta=FAR).taken  # it would keep the other jobs waiting
    assert bench.give(2, eta="2001-01-01T00:00:00").taken
    assert not bench.quarantine.takes(SimpleNamespace(headers=None), bench.ran.append)


def test_suspects_that_wait_widen_the_prefetch_as_far_as_the_consumer_allows() -> None:
    bench = Bench(window=3, most=4)
    messages = [bench.give() for _ in range(4)]
    assert bench.qos.value == 4  # one runs, three wait, and the consumer allows one more
    for message in messages:
        message.acknowledged = True
        bench.tick()
    assert bench.ran == messages
    assert bench.qos.value == 3


def test_a_lost_connection_clears_the_suspects_that_had_not_begun() -> None:
    bench = Bench()
    running = bench.give()
    bench.give()
    request = Request(running)
    state.active_requests.add(request)
    try:
        bench.quarantine.forget()
        assert bench.quarantine.held == 0
        again = bench.give()
        assert bench.ran == [running]  # it outlives its connection
    finally:
        state.active_requests.discard(request)
    bench.quarantine.forget()
    after = bench.give()
    assert bench.ran == [running, after]
    assert again not in bench.ran
    bench.tick()
    assert bench.due == []


@pytest.mark.parametrize("channel", ["full", "stock"])
def test_a_suspect_that_cannot_be_booked_runs_anyway(
    channel: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    if channel == "full":
        bench.channel.refuses = True
    else:
        bench.channel = object()  # type: ignore[assignment]
    message = bench.give()
    assert bench.ran == [message]
    warning = (
        "cannot note in the broker that a suspect runs (OOM); if it kills the worker, no job is "
    )
    assert caplog.messages == [f"{warning}blamed"] * (channel == "full")
