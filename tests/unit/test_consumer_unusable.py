"""A message that no worker can use becomes a dead letter, and is rejected."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
from celery.exceptions import InvalidTaskError
from celery.worker.consumer import Consumer as StockConsumer
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message

from tests.unit.unstarted_consumer import HEADERS, SECRET, Broker, consumer, message
from worker.hooks import consumer as consumer_module
from worker.hooks.consumer import Consumer, _reason

BODY, ERROR = {"prompt": SECRET}, ValueError(SECRET)
NOT_READ = "its body cannot be read: it is not valid JSON"
NO_ID = "it does not follow Celery's protocol: its id is missing"
NO_TASK = "NotRegistered: the workers do not know the task no such"

Use = Callable[[Consumer, Any], None]
USES: list[tuple[str, Use, str, bool, bool]] = [
    (
        "on_unknown_message",
        lambda consumer, incoming: consumer.on_unknown_message(BODY, incoming),
        "the message is not a Celery job",
        False,
        False,
    ),
    (
        "on_unknown_task",
        lambda consumer, incoming: consumer.on_unknown_task(BODY, incoming, ERROR),
        NO_TASK,
        True,
        False,
    ),
    (
        "on_invalid_task",
        lambda consumer, incoming: consumer.on_invalid_task(
            BODY, incoming, InvalidTaskError("its id is missing")
        ),
        NO_ID,
        False,
        True,
    ),
    (
        "on_decode_error",
        lambda consumer, incoming: consumer.on_decode_error(incoming, DecodeError(SECRET)),
        NOT_READ,
        False,
        True,
    ),
]


class Parts:
    """The records, reports and stored results of a consumer for a message, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = Mock()
        self.stored: list[tuple[str, str]] = []
        self.broker = Broker()
        self.broker.mark_as_failure = self._store  # type: ignore[method-assign]
        monkeypatch.setattr(consumer_module, "recorder", self.calls)
        for name, *_ in USES:
            monkeypatch.setattr(StockConsumer, name, getattr(self.calls, name))

    def _store(self, job: str, error: Exception) -> None:
        self.stored.append((job, str(error)))

    def use(self, use: Use) -> Any:
        incoming = message(self.broker, HEADERS | {"task": "no\nsuch"})
        use(consumer(self.broker, None), incoming)
        return incoming


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    return Parts(monkeypatch)


@pytest.mark.parametrize(
    ("stock", "use", "reason", "runnable", "is_stored"),
    USES,
    ids=[use_case[0] for use_case in USES],
)
def test_a_message_that_nobody_can_use_is_a_dead_letter_before_it_is_rejected(
    parts: Parts, *, stock: str, use: Use, reason: str, runnable: bool, is_stored: bool
) -> None:
    incoming = parts.use(use)
    assert parts.calls.mock_calls[0] == call.record_message(
        incoming, reason=reason, runnable=runnable
    )
    assert [use_case[0] for use_case in parts.calls.mock_calls[1:]] == [stock]
    assert parts.broker.rejected == ["t1"]
    assert parts.stored == [("job-1", reason)] * is_stored


@pytest.mark.parametrize(
    "use", [use_case[1] for use_case in USES], ids=[use_case[0] for use_case in USES]
)
def test_a_message_that_celery_fails_to_report_is_dropped_anyway(
    parts: Parts, caplog: pytest.LogCaptureFixture, use: Use
) -> None:
    for name, *_ in USES:
        getattr(parts.calls, name).side_effect = AttributeError(SECRET)
    parts.use(use)
    assert parts.broker.rejected == ["t1"]
    assert caplog.messages == [
        "cannot report an unusable message (AttributeError); it is dropped anyway"
    ]
    for name, *_ in USES:
        getattr(parts.calls, name).side_effect = redis.ConnectionError("away")
    with pytest.raises(redis.ConnectionError):
        parts.use(use)
    assert parts.broker.rejected == ["t1"], "the broker delivers it again"


def test_a_message_that_is_settled_already_is_left_alone(parts: Parts) -> None:
    incoming = message(parts.broker)
    incoming._state = "ACK"
    consumer(parts.broker, None).on_unknown_message(BODY, incoming)
    assert [use_case[0] for use_case in parts.calls.mock_calls] == ["on_unknown_message"]
    assert parts.broker.rejected == []


def test_a_message_without_an_id_has_no_failure_to_store(parts: Parts) -> None:
    receiver, headers = consumer(parts.broker, None), {"task": "tasks.ai.complete"}
    receiver.on_invalid_task(
        BODY, message(parts.broker, headers), InvalidTaskError("its id is missing")
    )
    assert parts.stored == []


# Messages on which Celery itself fails while it reports them.
@pytest.mark.parametrize("headers", [{"task": "sing", "id": "job-1"}, {"task": ["sing"]}, {}, None])
def test_a_message_that_nobody_can_report_is_dropped_anyway(
    headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()
    unusable = message(broker, headers)
    unusable.headers = headers
    handle = consumer(broker, None).create_task_handler()
    if headers and headers.get("task") == "sing":
        # The store is down; the message was rejected before.
        with pytest.raises(redis.ConnectionError):
            handle(unusable)
    else:
        handle(unusable)
    assert broker.rejected == ["t1"]


class FailureStore(Broker):
    """Notes the failures that it stores."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[tuple[str, str]] = []

    def mark_as_failure(self, job: Any, exc: Any = None, *_: Any, **__: Any) -> None:
        self.failures.append((job, f"{type(exc).__name__}: {exc}"))


# How many deaths are counted against a message, and whether it is read. At the fifth, the task
# refuses it.
@pytest.mark.parametrize(
    ("deaths", "alone", "reads"), [(1, None, True), (9, None, True), (5, 4, True), (6, 5, False)]
)
def test_a_message_whose_reading_killed_six_workers_is_dropped_unread(
    deaths: int, alone: int | None, reads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, seen, reasons = FailureStore(), [], []
    monkeypatch.setattr(
        "worker.deadletters.recorder.Recorder.record_message",
        lambda *_, **options: reasons.append(options["reason"]),
    )
    deadly = message(broker, HEADERS | {"deaths": deaths, "keywheel_alone": alone})
    monkeypatch.setattr(Message, "_decode", lambda _: seen.append("read") or [[], {}, {}])
    consumer(broker, lambda *_: seen.append("run")).create_task_handler()(deadly)
    if reads:
        assert seen == ["read", "run"]
        assert broker.rejected == reasons == []
        return
    assert seen == []
    assert broker.rejected == ["t1"]
    [(job, reason)] = broker.failures
    assert (job, reasons) == ("job-1", [reason])
    assert reason.startswith("Poisoned: 6 workers died")


def test_an_unknown_task_that_cannot_be_reported_is_rejected_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    broker = Broker()
    receiver = consumer(broker, None)
    receiver.on_unknown_task(None, message(broker, {"task": "sing"}), KeyError("sing"))
    assert broker.rejected == ["t1"]
    assert "cannot report an unusable message" in caplog.text


# The defect of a message, and the reason of its dead letter, which quotes nothing of it.
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ContentDisallowed("canary"), "its content type a/b x is not accepted: only JSON is"),
        (DecodeError("canary"), "its body cannot be read: it is not valid JSON"),
        (
            InvalidTaskError("its id is missing"),
            "it does not follow Celery's protocol: its id is missing",
        ),
        (InvalidTaskError("canary"), "it does not follow Celery's protocol"),
        (KeyError("canary"), "it does not follow Celery's protocol (KeyError)"),
    ],
)
def test_the_reason_of_an_unusable_message_quotes_none_of_it(error: Exception, reason: str) -> None:
    assert _reason(SimpleNamespace(content_type="a/b\nx"), error) == reason
