"""When a starting worker is warned of another worker with the same name."""

import logging
import threading
from types import SimpleNamespace
from typing import Any, Self

import pytest
from celery import signals

from worker.startup import worker_name

PONG = {"w1@here": {"ok": "pong"}}


class _Mailbox:
    """Answers each ping with the next of its replies."""

    def __init__(self, *replies: int) -> None:
        self._replies = [[PONG] * count for count in replies]
        self._producer_pool = "the app's"
        self.pings: list[Any] = []

    def _broadcast(self, *args: Any, **options: Any) -> list[Any]:
        self.pings.append((args, options, self._producer_pool))
        return self._replies.pop(0)


class _Connection:
    def __init__(self) -> None:
        self.is_open = False

    def __enter__(self) -> Self:
        self.is_open = True
        return self

    def __exit__(self, *_: object) -> None:
        self.is_open = False


def app_with(mailbox: _Mailbox) -> Any:
    return SimpleNamespace(
        connection_for_write=_Connection, control=SimpleNamespace(mailbox=lambda _: mailbox)
    )


# How many workers answer each ping, how often it is sent, and whether the worker is warned.
@pytest.mark.parametrize(
    ("replies", "pings", "warned"),
    [
        ((1, 1), 2, False),
        ((0, 1), 2, False),  # it did not receive its own first ping
        ((2,), 1, True),
        ((1, 2), 2, True),  # the other worker was busy
    ],
)
def test_two_answers_mean_that_two_workers_have_one_name(
    caplog: pytest.LogCaptureFixture, replies: tuple[int, ...], pings: int, *, warned: bool
) -> None:
    mailbox = _Mailbox(*replies)
    worker_name._check(app_with(mailbox), "w1@here")
    ping = {"destination": ["w1@here"], "reply": True, "timeout": 2.0, "limit": 2}
    assert mailbox.pings == [(("ping",), ping, None)] * pings, "the ping uses its own connection"
    warning = (
        "another worker has the name w1@here: give each its own (-n NAME@%h), or commands, health "
        "and statistics of both are mixed up"
    )
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == (
        [(logging.WARNING, warning)] * warned
    )


def test_the_name_is_checked_in_a_daemon_thread_once_the_worker_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    checked = threading.Event()

    def check(*args: Any) -> None:
        thread = threading.current_thread()
        seen.append((args, thread.name, thread.daemon))
        checked.set()

    monkeypatch.setattr(worker_name, "_check", check)
    worker_name.check(SimpleNamespace(app="the app", hostname="w1@here"))
    assert checked.wait(10)
    assert seen == [(("the app", "w1@here"), "worker-name", True)]
    assert worker_name.check in [receiver for _, receiver in signals.worker_ready.receivers]


def test_a_name_that_cannot_be_checked_is_logged_and_raises_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def gone() -> None:
        raise ConnectionRefusedError("no broker")

    caplog.set_level(logging.DEBUG, "worker.startup.worker_name")
    worker_name._check(SimpleNamespace(connection_for_write=gone), "w1@here")
    assert caplog.messages == [
        "cannot check whether another worker has the name w1@here (ConnectionRefusedError)"
    ]
