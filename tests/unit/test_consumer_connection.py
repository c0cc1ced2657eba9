"""The consumer's connection to the broker: refused, lost, down, and opened again."""

import errno
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import WorkerShutdown
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer
from kombu.exceptions import OperationalError

from tests.unit.unstarted_consumer import Broker, consumer
from worker.hooks import consumer as consumer_module
from worker.hooks.consumer import Consumer, Pauses
from worker.hooks.losses import Losses


def test_a_broker_that_goes_on_to_refuse_is_asked_less_and_less_often() -> None:
    pauses, now_s, seen = Pauses(), 0.0, []
    for _ in range(10):
        seen.append(pauses.next(now_s))
        now_s += seen[-1] + 1
    assert seen == [1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3]
    assert max(seen[:3]) < 2, "after an outage of seconds, the worker connects within two seconds"
    assert pauses.next(now_s + 60) == 1, "the broker had accepted everything for a minute"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_a_process_without_a_free_file_handle_tries_again_although_celery_would_end(
    code: int,
) -> None:
    shortage = OSError(code, "Too many open files")

    def start(_: Any) -> None:
        raise shortage

    steps = Consumer.Blueprint()
    mailbox = SimpleNamespace(name="Mailbox", alias="Mailbox", start=start)
    with pytest.raises(OperationalError, match="may open no more files") as caught:
        steps.start(SimpleNamespace(steps=[mailbox]))
    assert caught.value.__cause__ is shortage
    assert not isinstance(caught.value, OSError), "Celery ends a worker when it gets an OSError"
    shortage = OSError(errno.ECONNREFUSED, "Connection refused")
    with pytest.raises(ConnectionRefusedError):
        steps.start(SimpleNamespace(steps=[mailbox]))


def test_a_worker_whose_step_does_not_reach_the_broker_starts_again() -> None:
    app = Celery(broker="memory://", set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True
    receiver = Consumer(
        ignore,
        app=app,
        pool=SimpleNamespace(num_processes=1, is_green=False, flush=ignore),
        controller=SimpleNamespace(use_eventloop=False, semaphore=None),
    )
    outcomes = iter([OperationalError("away"), WorkerShutdown()])

    def start(_: Any) -> None:
        raise next(outcomes)

    receiver.blueprint.start = start
    receiver._pauses = SimpleNamespace(next=lambda _: 0.0)  # type: ignore[assignment]
    with pytest.raises(WorkerShutdown):
        receiver.start()
    app.close()


def ignore(*_: Any) -> None:
    pass


def test_a_broker_that_cannot_be_reached_is_asked_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = Consumer.__new__(Consumer)
    receiver._pauses = SimpleNamespace(next=lambda _: 0.0)  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        receiver.on_connection_error_before_connected(OSError(errno.EMFILE, "Too many open files"))
    assert caplog.messages == [
        "cannot connect to the broker: [Errno 24] Too many open files; next try in 0 s"
    ]


def test_a_broker_that_is_down_is_asked_again_every_few_seconds() -> None:
    receiver = consumer(Broker(), None)
    receiver.app.conf = SimpleNamespace(
        broker_connection_retry_on_startup=True, broker_connection_max_retries=None
    )
    receiver.first_connection_attempt = True
    retries: list[dict[str, Any]] = []
    connection = SimpleNamespace(ensure_connection=lambda *_, **options: retries.append(options))
    receiver.ensure_connected(connection)
    start_s, step_s, longest_s = (retries[0][f"interval_{end}"] for end in ("start", "step", "max"))
    assert start_s + 2 * step_s < 2, "after a short outage the worker connects soon"
    assert start_s < longest_s <= 3


def test_connections_that_are_lost_again_and_again_within_a_second_are_opened_after_a_pause() -> (
    None
):
    losses = Losses()
    assert [losses.are_frequent(0.2 * number) for number in range(6)] == [False] * 4 + [True] * 2
    assert not losses.are_frequent(60.0), "connections lasted for some time"
    assert not any(losses.are_frequent(100.0 + number) for number in range(9)), "one loss a second"


def test_a_broker_that_ends_connections_at_once_is_given_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[Exception] = []
    monkeypatch.setattr(
        StockConsumer, "on_connection_error_after_connected", lambda _, exc: lost.append(exc)
    )
    receiver, pauses = consumer(Broker(), None), []
    receiver._losses = Losses()
    receiver.conninfo = SimpleNamespace(connection_errors=(OSError,))
    monkeypatch.setattr(receiver, "_pause", lambda reason, _: pauses.append(reason))
    for _ in range(5):
        receiver.on_connection_error_after_connected(ConnectionResetError())
    assert pauses == ["the broker ends connections as soon as they are open"]
    receiver.on_connection_error_after_connected(ValueError("full"))
    assert pauses[1:] == ["the broker refuses"]
    assert [type(exc) for exc in lost] == [ConnectionResetError] * 5 + [ValueError]


def test_a_worker_that_is_to_end_does_not_wait_for_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver = Consumer.__new__(Consumer)
    receiver._pauses = SimpleNamespace(next=lambda _: 3_600.0)  # type: ignore[assignment]
    monkeypatch.setattr(state, "should_stop", 0)
    with pytest.raises(WorkerShutdown):
        receiver.on_connection_error_before_connected(OSError("away"))


def test_a_pause_ends_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=1_000.0, monotonic=lambda: clock.now_s)
    clock.sleep = lambda step_s: setattr(clock, "now_s", clock.now_s + step_s)
    monkeypatch.setattr(consumer_module, "time", clock)
    receiver = Consumer.__new__(Consumer)
    receiver._pauses = SimpleNamespace(next=lambda now_s: now_s - 997.0)  # type: ignore[assignment]
    receiver.on_connection_error_before_connected(OSError("away"))
    assert clock.now_s == pytest.approx(1_003, abs=0.5)
