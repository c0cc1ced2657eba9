"""Remote control whose reply the broker does not take."""

import logging
from typing import Any

import amqp
import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from worker.aio import mailbox
from worker.aio.redis_retry import _Quiet


def test_a_reply_that_the_broker_does_not_take_is_a_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery(broker="memory://", set_as_current=False)
    control: Any = app.control.mailbox

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationalError("command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(type(control), "_publish_reply", refuse)
    monkeypatch.setattr(_Quiet, "until_s", {})
    mailbox.install(app, lambda: None)
    try:
        node = control.Node("w1@here", handlers={"ping": lambda _: "pong"})
        with caplog.at_level(logging.WARNING):
            node.dispatch("ping", {}, reply_to={"exchange": "e", "routing_key": "r"}, ticket="t")
    finally:
        mailbox.uninstall(app)
    refused = "command not allowed when used memory > 'maxmemory'."
    assert caplog.messages == [f"remote control: the broker takes no reply ({refused})"]
    with pytest.raises(OperationalError):
        control._publish_reply()


def test_a_reply_is_tried_once_more_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery(broker="memory://localhost", set_as_current=False)
    control: Any = app.control.mailbox
    tries = 0

    def lose(*_: Any, **__: Any) -> None:
        nonlocal tries
        tries += 1
        # Without a limit Celery would try for ever.
        raise amqp.ConnectionError("it is gone") if tries < 9 else AssertionError

    monkeypatch.setattr(_Quiet, "until_s", {})
    mailbox.install(app, lambda: None)
    monkeypatch.setattr("kombu.transport.virtual.Channel.basic_publish", lose)
    # As the transport of Redis says it: any number of tries may help.
    lost = "kombu.transport.memory.Transport.recoverable_connection_errors"
    monkeypatch.setattr(lost, (amqp.ConnectionError,), raising=False)
    try:
        node = control.Node("w1@here", handlers={"ping": lambda _: "pong"}, channel=object())
        with caplog.at_level(logging.WARNING):
            node.dispatch("ping", {}, reply_to={"exchange": "e", "routing_key": "r"}, ticket="t")
    finally:
        mailbox.uninstall(app)
    assert caplog.messages == ["remote control: the broker takes no reply (it is gone)"]
    assert tries == 2
