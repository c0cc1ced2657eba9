"""Plain messages become the jobs that Celery would make of them; Celery handles all others."""

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from celery import Celery, signals
from celery.app import trace
from celery.exceptions import TaskRevokedError
from celery.worker import request as stock_request
from celery.worker import state
from celery.worker import strategy as stock_strategy
from kombu.message import Message
from vine import promise

from worker.aio import intake, reports

HEADERS = {"id": "job-1", "task": "tasks.x", "argsrepr": "(1,)", "kwargsrepr": "{'a': 2}"}
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
BODY = ([1], {"a": 2}, EMBED)
RECEIVED = {"uuid": "job-1", "name": "tasks.x", "args": "(1,)", "kwargs": "{'a': 2}"} | {
    "root_id": None, "parent_id": None, "retries": 0, "eta": None, "expires": None
}  # fmt: skip


def _nothing() -> None:
    pass


def message(headers: dict[str, Any] | None = None, body: Any = BODY, **more: Any) -> Message:
    given: dict[str, Any] = {"delivery_info": {}, "properties": {}} | more
    return Message(  # type: ignore[no-untyped-call, unused-ignore]
        body=json.dumps(body), channel=None, delivery_tag="t1", headers=HEADERS | (headers or {}),
        content_type="application/json", content_encoding="utf-8", accept={"application/json"},
        **given,
    )  # fmt: skip


class Consumer(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment] # signals are sent by it

    def create_task_handler(self, **options: Any) -> Any:
        return options


class IntakeBench:
    """A task, a consumer that notes its requests, and a double of Celery's own strategy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = Celery(set_as_current=False)
        self.task: Any = self.app.task(_nothing, name="tasks.x", shared=False)
        self.stock, self.log = Mock(), Mock()
        self.log.isEnabledFor.return_value = True
        self.reserved = Mock()
        monkeypatch.setattr(stock_strategy, "default", lambda *_: self.stock)
        monkeypatch.setattr(stock_strategy, "logger", self.log)
        monkeypatch.setattr(state, "task_reserved", self.reserved)
        monkeypatch.setattr(intake, "_revoked", {"revoked"})
        self.dispatcher = Mock(enabled=True)
        self.consumer: Any = Consumer(
            pool=Mock(), hostname="w@host", event_dispatcher=self.dispatcher,
            connection_errors=(OSError,), disable_rate_limits=False,
            task_buckets={"tasks.x": None}, on_task_request=Mock(), restart_count=0,
            connection=SimpleNamespace(transport=SimpleNamespace(notes_acks=False)),
        )  # fmt: skip

    def handler(self) -> Any:
        return intake.strategy(self.task, self.app, self.consumer)

    def request(self, incoming: Message, body: Any = None) -> Any:
        """Pass a message; return the request made of it, or None if Celery handles it."""
        self.consumer.on_task_request.reset_mock()
        self.handler()(incoming, body, "ack", "reject", [])
        if not self.consumer.on_task_request.called:
            return None
        return self.consumer.on_task_request.call_args.args[0]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> IntakeBench:
    return IntakeBench(monkeypatch)


# The unusual part of a message, or of its body.
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"eta": "2030-01-01"}, None),
        ({"expires": "2030-01-01"}, None),
        ({"stamped_headers": ["x"]}, None),
        ({"id": None}, None),
        ({"id": "revoked"}, None),
        ({}, "protocol 1"),
    ],
)
def test_messages_that_are_not_plain_are_celerys(
    bench: IntakeBench, headers: dict[str, Any], body: Any
) -> None:
    incoming = message(headers)
    assert bench.request(incoming, body) is None
    assert bench.stock.call_args == call(incoming, body, "ack", "reject", [])
    bench.consumer.on_task_request.assert_not_called()


@pytest.mark.parametrize("body", [{"0": 1}, [[], {}], "text", [[], {}, {}, 1]])
def test_a_body_of_another_form_is_celerys(bench: IntakeBench, body: Any) -> None:
    incoming = message(body=body)
    assert bench.request(incoming) is None
    assert bench.handler()(incoming, None, "ack", "reject", []) is bench.stock.return_value


def test_a_task_with_a_rate_limit_is_celerys_unless_limits_are_off(bench: IntakeBench) -> None:
    bench.consumer.task_buckets["tasks.x"] = object()
    assert bench.request(message()) is None
    bench.consumer.disable_rate_limits = True
    assert bench.request(message()).id == "job-1"


def test_a_pool_without_a_take_method_has_celerys_strategy(bench: IntakeBench) -> None:
    bench.consumer.pool = object()
    assert bench.handler() is bench.stock


# Further headers, properties and the route of the message.
@pytest.mark.parametrize(
    ("headers", "more"),
    [
        ({}, {}),
        ({"shadow": "shown", "root_id": "r", "parent_id": "p", "timelimit": [3, 2]}, {}),
        ({"shadow": "", "timelimit": None, "ignore_result": True, "retries": 2}, {}),
        ({"argsrepr": "x", "ignore_result": False}, {"properties": None, "delivery_info": None}),
        ({"lang": "py"}, {"properties": {"priority": 3, "reply_to": "q", "correlation_id": "c"},
         "delivery_info": {"exchange": "e", "routing_key": "k", "redelivered": True}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ignores", [True, False])
def test_a_request_is_what_celery_makes_of_the_message(
    bench: IntakeBench, headers: dict[str, Any], more: dict[str, Any], *, ignores: bool
) -> None:
    bench.task.ignore_result = ignores
    plain = message(headers, **more)
    request = bench.request(plain)
    stock = stock_request.Request(
        plain, on_ack="ack", on_reject="reject", hostname="w@host", eventer=bench.dispatcher,
        app=bench.app, connection_errors=(OSError,), task=bench.task, body=list(BODY), decoded=True,
    )  # fmt: skip
    names = [name for name in dir(stock) if not name.startswith("_") or name == "_payload"]
    compared = 0
    for name in names:
        value = getattr(stock, name)
        if not callable(value) or name == "eventer":
            assert getattr(request, name) == value, name
            compared += 1
    assert compared > 30
    assert vars(request._context) == vars(stock._context)
    assert request.message is plain


def test_a_job_that_was_received_is_logged_and_announced_as_by_celery(bench: IntakeBench) -> None:
    order = Mock()
    bench.log.info, bench.reserved.side_effect = order.log, order.reserved
    bench.dispatcher.send.side_effect = order.send
    bench.consumer.on_task_request.side_effect = order.request
    callback = order.callback
    received: list[dict[str, Any]] = []

    def note_received(**fields: Any) -> None:
        received.append(fields)

    signals.task_received.connect(note_received)
    try:
        handled = bench.handler()(message(), None, "ack", "reject", [callback])
    finally:
        signals.task_received.disconnect(note_received)
    request = order.request.call_args.args[0]
    fields = {"id": "job-1", "name": "tasks.x", "args": "(1,)", "kwargs": "{'a': 2}", "eta": None}
    assert order.mock_calls == [
        call.log(trace.LOG_RECEIVED, fields, extra={"data": fields}),
        call.send("task-received", **RECEIVED),
        call.reserved(request),
        call.callback(request),
        call.request(request),
    ]
    assert handled is order.request.return_value
    assert received == [
        {"signal": signals.task_received, "sender": bench.consumer, "request": request}
    ]


@pytest.mark.parametrize("quiet", ["no dispatcher", "disabled", "task sends none"])
def test_events_are_sent_only_if_somebody_wants_them(bench: IntakeBench, quiet: str) -> None:
    bench.log.isEnabledFor.return_value = False
    if quiet == "no dispatcher":
        bench.consumer.event_dispatcher = None
    bench.dispatcher.enabled = quiet != "disabled"
    bench.task.send_events = quiet != "task sends none"
    assert bench.request(message()) is not None
    bench.dispatcher.send.assert_not_called()
    bench.log.info.assert_not_called()


@pytest.mark.parametrize("fast", [True, False])
def test_the_pool_takes_a_job_with_its_own_limits_or_its_tasks(
    bench: IntakeBench, *, fast: bool
) -> None:
    bench.app.use_fast_trace_task = fast
    bench.task.soft_time_limit, bench.task.time_limit = 20, 30
    run = trace.fast_trace_task if fast else trace.trace_task_ret
    for limits, soft_s, hard_s in (([5, 4], 4, 5), (None, 20, 30), ([5, None], 20, 5)):
        request, pool = bench.request(message({"timelimit": limits})), Mock()
        job = request.execute_using_pool(pool)
        assert job is pool.take.return_value
        assert request._apply_result() is job
        traced = ("tasks.x", "job-1", request.request_dict, request.body, None, None)
        assert pool.take.call_args == call(
            run, traced, request, soft_timeout_s=soft_s, timeout_s=hard_s
        )


def test_a_job_that_was_revoked_meanwhile_does_not_begin(bench: IntakeBench) -> None:
    for announced in (True, False):
        request, pool = bench.request(message()), Mock()
        request._already_revoked = announced
        request.revoked = Mock(return_value=True)
        if not announced:
            intake._revoked.add("job-1")
        with pytest.raises(TaskRevokedError, match="job-1"):
            request.execute_using_pool(pool)
        pool.take.assert_not_called()
        request.revoked.return_value = False  # it was removed from Celery's list
        assert request.execute_using_pool(pool) is pool.take.return_value


def test_a_report_that_fails_settles_the_message(
    bench: IntakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, settled = Mock(), Mock()
    for name in ("on_timeout", "on_failure", "_announce_revoked"):
        stock = getattr(calls, name)
        stock.__name__, stock.side_effect = name, OSError("away")
        monkeypatch.setattr(
            stock_request.Request, name, lambda self, *args, stock=stock: stock(*args) and self
        )
    monkeypatch.setattr(reports, "settle", settled)
    request = bench.request(message())
    request.on_timeout(True, 3)
    request.on_failure("info", return_ok=True)
    request._announce_revoked("revoked", False, None, True)
    assert calls.mock_calls == [
        call.on_timeout(True, 3),
        call.on_failure("info", True, True),
        call._announce_revoked("revoked", False, None, True),
    ]
    assert [each.args[0] for each in settled.call_args_list] == [request] * 3


# The strategy and request class of a task, and whether ours replaces them.
@pytest.mark.parametrize(
    ("strategy", "request_class", "is_ours"),
    [
        (intake.STOCK_STRATEGY, intake.STOCK_REQUEST, True),
        ("x:own", intake.STOCK_REQUEST, False),
        (intake.STOCK_STRATEGY, "x:Own", False),
    ],
)
def test_a_tasks_own_strategy_or_request_stays(
    strategy: str, request_class: str, *, is_ours: bool
) -> None:
    task = SimpleNamespace(Strategy=strategy, Request=request_class)
    intake.prepare(task)
    assert task.Strategy == ("worker.aio.intake:strategy" if is_ours else strategy)


# How often the consumer was restarted, whether its prefetch window is restored; how it settles.
@pytest.mark.parametrize(
    ("restarts", "restored", "at_once"),
    [(0, False, True), (0, True, True), (1, True, True), (1, False, False)],
)
def test_messages_are_settled_at_once_if_the_transport_notes_that(
    bench: IntakeBench, *, restarts: int, restored: bool, at_once: bool
) -> None:
    consumer = bench.consumer
    consumer._maximum_prefetch_restored = restored
    consumer.restart_count = restarts
    intake._settle_at_once(consumer)
    assert consumer.create_task_handler() == {}, "kombu's own transport does not note it"
    consumer.connection.transport.notes_acks = True
    intake._settle_at_once(consumer)
    handler = consumer.create_task_handler
    intake._settle_at_once(consumer)
    assert consumer.create_task_handler is handler
    settling = handler()["promise"]
    settled = settling(print, ("ack",))
    assert (settled == "ack") is at_once
    assert isinstance(settled, promise) is not at_once
