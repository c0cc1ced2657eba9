"""Which messages are sent many in a round trip, and which as Celery sends them."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import celery
import pytest
from celery import Celery, Signature, chain, signals
from kombu.exceptions import OperationalError

from worker.aio.sending import Sender, StockChannel


class Channel(StockChannel):
    """The channel of Redis without Redis: it notes its messages."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, dict[str, Any]]] = []
        self.piped: list[tuple[str, int]] = []
        self.default_priority, self.body_encoding = 0, "base64"
        self.fails = False

    def encode_body(self, body: Any, encoding: Any = None) -> tuple[Any, Any]:
        return body, encoding

    def _put(self, queue: str, message: dict[str, Any], *, _publish_batch: Any = None) -> None:
        if self.fails:
            raise OperationalError("gone")
        self.puts.append((queue, message))
        if _publish_batch is not None:
            _publish_batch.add("lpush", queue, len(self.puts))

    @contextmanager
    def conn_or_acquire(self) -> Iterator[Any]:  # type: ignore[override]
        @contextmanager
        def pipeline(*, transaction: bool) -> Iterator[Any]:
            assert not transaction
            pushes: list[tuple[str, int]] = []
            yield SimpleNamespace(
                lpush=lambda *args: pushes.append(args), execute=lambda: self.piped.extend(pushes)
            )

        yield SimpleNamespace(pipeline=pipeline)

    def __del__(self) -> None:
        """Do nothing, because nothing is open."""


class Sent:
    """A sender of an app with two tasks; it notes what Celery sends for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = Celery("unit", broker="memory://localhost", set_as_current=False)
        self.channel: Any = Channel()
        self.by_celery: list[dict[str, Any]] = []
        self.task = self.app.task(_plain, shared=False, name="plain")
        monkeypatch.setattr(Signature, "apply_async", self._apply)
        producer = SimpleNamespace(connection=SimpleNamespace(_reraise_as_library_errors=_nothing))

        @contextmanager
        def acquire() -> Iterator[Any]:
            producer.channel = self.channel
            yield producer

        self.app.producer_or_acquire = acquire
        self.sender = Sender(self.app)

    def _apply(self, **options: Any) -> str:
        self.by_celery.append(options)
        return f"celery's {len(self.by_celery)}"

    def declare(self, *queues: str) -> None:
        """Make Celery declare the queues, which it does with the first message to each."""
        for queue in queues:
            self.sender.send(self.task.s(0).set(queue=queue))
        self.by_celery.clear()
        assert self.channel.puts == []


def _plain(x: int) -> int:
    return x


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sent]:
    sending = Sent(monkeypatch)
    yield sending
    sending.app.close()


def test_the_first_message_to_a_queue_is_celerys_and_all_others_go_together(sent: Sent) -> None:
    whole = [sent.task.s(number).set(queue="q") for number in range(1200)]
    results = sent.sender.send_many(whole)
    # All of the first batch, because the queue is known only after it.
    assert sent.by_celery == [{}] * 500
    assert results[:2] == ["celery's 1", "celery's 2"]
    assert [result.id for result in results[500:]] == [
        message["headers"]["id"] for _, message in sent.channel.puts
    ]
    assert sent.channel.piped == [("q", number + 1) for number in range(700)]
    sent.channel.puts.clear()
    result = sent.sender.send(sent.task.s(1).set(queue="q", task_id="own", priority=3))
    [(queue, message)] = sent.channel.puts
    assert (queue, result.id, result.ignored) == ("q", "own", False)
    assert message["properties"]["priority"] == 3
    assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": "q"}
    assert len(sent.channel.piped) == 700, "one message needs no pipeline"


# The special property of the app, or of the moment.
@pytest.mark.parametrize(
    "special",
    ["task_always_eager", "task_send_sent_event", "task_compression", "task_protocol",
     "a receiver", "a job", "another broker"],
)  # fmt: skip
def test_if_more_than_the_broker_handles_a_message_celery_sends_it(
    sent: Sent, monkeypatch: pytest.MonkeyPatch, special: str
) -> None:
    def receiver(**_: Any) -> None: ...

    if special.startswith("task_"):
        sent.app.conf[special] = {"task_protocol": 1, "task_compression": "gzip"}.get(special, True)
    elif special == "another broker":
        sent.channel = object()
    elif special == "a job":
        monkeypatch.setattr(Celery, "current_worker_task", object())
    elif special == "a receiver":
        signals.after_task_publish.connect(receiver)
    try:
        for _ in range(2):
            sent.sender.send(sent.task.s(1).set(queue="q"))
    finally:
        signals.after_task_publish.disconnect(receiver)
    assert sent.by_celery == [{}, {}]
    assert getattr(sent.channel, "puts", []) == []


@pytest.mark.parametrize(
    ("options", "is_plain"),
    [
        ({"countdown": 3, "headers": {"a": 1}, "ignore_result": True, "time_limit": 9}, True),
        ({"serializer": "json", "task_type": "x", "expires": None}, True),
        ({"serializer": "pickle"}, False),
        ({"expires": 3}, False),
        ({"exchange": "e"}, False),
        ({"queue": "fanned"}, False),
    ],
)
def test_only_options_of_the_message_itself_are_plain(
    sent: Sent, options: dict[str, Any], *, is_plain: bool
) -> None:
    fanned = sent.app.amqp.queues.select_add("fanned")
    fanned.exchange = SimpleNamespace(type="fanout", delivery_mode=2)
    sent.declare("q", "fanned")
    sent.sender.send(sent.task.s(1).set(**{"queue": "q"} | options))
    assert (len(sent.channel.puts), len(sent.by_celery)) == ((1, 0) if is_plain else (0, 1))
    if "headers" in options:
        [(_, message)] = sent.channel.puts
        assert message["headers"]["a"] == 1
        assert message["headers"]["eta"]
        assert message["headers"]["ignore_result"] is True


def test_tasks_with_an_apply_async_of_their_own_are_sent_by_celery(sent: Sent) -> None:
    class Own(celery.Task):
        def apply_async(self, *args: Any, **options: Any) -> Any:
            raise NotImplementedError

    own = sent.app.task(_plain, shared=False, name="own", base=Own)
    checked = sent.app.task(_plain, shared=False, name="checked", pydantic=True)
    sent.declare("q")
    for task in (own, checked):
        sent.sender.send(task.s(1).set(queue="q"))
    sent.sender.send(chain(sent.task.s(1), sent.task.s()).set(queue="q"))
    assert (len(sent.by_celery), sent.channel.puts) == (3, [])
    unknown = Signature("elsewhere", args=(1,), app=sent.app).set(queue="q")
    sent.sender.send(unknown)
    assert len(sent.channel.puts) == 1


def test_wrong_arguments_are_refused_before_anything_is_sent(sent: Sent) -> None:
    sent.declare("q")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        sent.sender.send(sent.task.s().set(queue="q"))
    assert sent.channel.puts == []


@pytest.mark.parametrize("count", [1, 3])
def test_celery_sends_messages_that_a_lost_connection_has_kept_with_the_same_ids(
    sent: Sent, count: int
) -> None:
    sent.declare("q")
    sent.channel.fails = True
    whole = [sent.task.s(1).set(queue="q", task_id=f"id-{number}") for number in range(count)]
    results = sent.sender.send_many(whole)
    assert sent.by_celery == [{"task_id": f"id-{number}"} for number in range(count)]
    assert results == [f"celery's {number + 1}" for number in range(count)]
    sent.channel._put = Mock(side_effect=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        sent.sender.send_many(whole)
