"""Remote control: replies that the broker refuses, reports before commands, connections."""

import logging
from contextlib import ExitStack
from typing import Any
from unittest.mock import Mock, call

import amqp
import pytest
from celery import Celery
from celery.worker.control import Panel
from kombu.exceptions import OperationalError

from worker.aio import mailbox
from worker.aio.redis_retry import _LogLimit


def test_a_reply_that_the_broker_refuses_is_logged_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery(broker="memory://", set_as_current=False)
    control: Any = app.control.mailbox

    def refuse(*_: Any, **__: Any) -> None:
        raise OperationalError("command not allowed when used memory > 'maxmemory'.")

    monkeypatch.setattr(type(control), "_publish_reply", refuse)
    monkeypatch.setattr(_LogLimit, "until_s", {})
    mailbox.install(app, lambda: None)
    try:
        node = control.Node("w1@here", handlers={"ping": lambda _: "pong"})
        with caplog.at_level(logging.WARNING):
            node.dispatch("ping", {}, reply_to={"exchange": "e", "routing_key": "r"}, ticket="t")
    finally:
        mailbox.uninstall(app)
    refused = "command not allowed when used memory > 'maxmemory'."
    assert caplog.messages == [f"remote control: cannot send a reply ({refused})"]
    with pytest.raises(OperationalError):
        control._publish_reply()


def test_a_reply_that_is_wrong_in_itself_raises_as_in_celery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Celery(broker="memory://", set_as_current=False)
    monkeypatch.setattr(type(app.control.mailbox), "_publish_reply", Mock(side_effect=TypeError))
    mailbox.install(app, lambda: None)
    try:
        with pytest.raises(TypeError):
            app.control.mailbox._publish_reply()
    finally:
        mailbox.uninstall(app)


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

    monkeypatch.setattr(_LogLimit, "until_s", {})
    mailbox.install(app, lambda: None)
    monkeypatch.setattr("kombu.transport.virtual.Channel.basic_publish", lose)
    # The setting of the Redis transport: any number of attempts.
    lost = "kombu.transport.memory.Transport.recoverable_connection_errors"
    monkeypatch.setattr(lost, (amqp.ConnectionError,), raising=False)
    try:
        node = control.Node("w1@here", handlers={"ping": lambda _: "pong"}, channel=object())
        with caplog.at_level(logging.WARNING):
            node.dispatch("ping", {}, reply_to={"exchange": "e", "routing_key": "r"}, ticket="t")
    finally:
        mailbox.uninstall(app)
    assert caplog.messages == ["remote control: cannot send a reply (it is gone)"]
    assert tries == 2


_JOB_COMMANDS = (
    "active", "dump_active", "query_task", "revoke", "revoke_by_stamped_headers", "terminate",
)  # fmt: skip


def test_commands_that_see_jobs_take_the_reports_first(monkeypatch: pytest.MonkeyPatch) -> None:
    app, calls = Celery(broker="memory://", set_as_current=False), Mock()
    for name in _JOB_COMMANDS:
        monkeypatch.setitem(Panel.data, name, getattr(calls, name))
    stock = dict(Panel.data)
    mailbox.install(app, calls.take_reports)
    try:
        installed = dict(Panel.data)
        for name in _JOB_COMMANDS:
            calls.reset_mock()
            assert installed[name]("state", x=1) is getattr(calls, name).return_value
            assert calls.mock_calls == [call.take_reports(), getattr(call, name)("state", x=1)]
    finally:
        mailbox.uninstall(app)
    assert {name for name in installed if installed[name] is not stock[name]} == set(_JOB_COMMANDS)
    assert stock == Panel.data
    mailbox.uninstall(app)  # a second call does nothing
    assert stock == Panel.data


@pytest.mark.parametrize("has_sent", [True, False])
def test_remote_control_has_as_many_connections_as_it_needs_and_keeps_none(
    *, has_sent: bool
) -> None:
    app = Celery(broker="memory://localhost", set_as_current=False)
    control: Any = app.control.mailbox
    if has_sent:
        assert control.producer_pool is app.amqp.producer_pool
    mailbox.install(app, lambda: None)
    try:
        assert control.producer_pool is not app.amqp.producer_pool
        with ExitStack() as lent:
            many = [lent.enter_context(control.producer_pool.acquire()) for _ in range(20)]
            channels = {id(each.channel) for each in many}
            connections = [each.connection for each in many]
            assert (len(channels), len(set(map(id, connections)))) == (20, 20)
            assert all(each.connected for each in connections)
        assert not any(each.connected for each in connections)
    finally:
        mailbox.uninstall(app)
    assert control.producer_pool is app.amqp.producer_pool
    mailbox.uninstall(app)  # a second call does nothing
    with app.amqp.producer_pool.acquire() as producer:
        assert producer.channel
