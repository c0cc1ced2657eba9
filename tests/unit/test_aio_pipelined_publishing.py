"""Which messages of jobs are kept for a pipeline, in which form, and which ones Celery sends."""

import asyncio
import base64
import json
from contextvars import Context
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
import redis
from celery import Celery

from worker.aio import pipelined_publishing as publishing
from worker.aio.pipelined_publishing import (
    KeptMessages,
    NotPlain,
    is_wanted,
    publish,
    publisher_of,
    send,
)


def test_a_message_is_kept_as_kombu_would_send_it() -> None:
    kept = KeptMessages()
    assert kept.serializer is None
    with kept.connection._reraise_as_library_errors():
        kept.publish({"a": "ä"}, routing_key="q", serializer="json", headers={"id": "1"},
                     priority=3, expiration=1.5, delivery_mode=2, correlation_id="c", retry=True,
                     retry_policy={}, declare=[], timeout=1, confirm_timeout=1, mandatory=False,
                     immediate=False)  # fmt: skip
    kept.publish(b"bytes", routing_key="r", serializer="raw", priority=None, delivery_mode=1)
    [(queue, first), (other, second)] = kept.messages
    assert (queue, other) == ("q", "r")
    tag = first["properties"].pop("delivery_tag")
    assert json.loads(base64.b64decode(first.pop("body"))) == {"a": "ä"}
    assert first == {
        "content-encoding": "utf-8", "content-type": "application/json", "headers": {"id": "1"},
        "properties": {
            "correlation_id": "c", "expiration": "1500", "delivery_mode": 2, "priority": 3,
            "delivery_info": {"exchange": "", "routing_key": "q"}, "body_encoding": "base64",
        },
    }  # fmt: skip
    assert base64.b64decode(second["body"]) == b"bytes"
    assert second["headers"] == {}
    assert second["properties"]["priority"] == 0
    assert "expiration" not in second["properties"]
    assert second["properties"]["delivery_tag"] != tag


@pytest.mark.parametrize(
    "special",
    [{"exchange": "e"}, {"compression": "gzip"}, {"routing_key": ""}, {"content_type": "x"}],
)
def test_a_message_that_goes_another_way_is_celerys(special: dict[str, Any]) -> None:
    kept = KeptMessages()
    with pytest.raises(NotPlain):
        kept.publish("x", **{"routing_key": "q", "serializer": "json"} | special)
    assert kept.messages == []


class Broker:
    """The publisher of an app, which notes its messages, or None."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.publisher: Any = SimpleNamespace(send=AsyncMock())
        self.app: Any = object()
        monkeypatch.setattr(publishing, "publisher_of", AsyncMock(side_effect=self._publisher))

    async def _publisher(self, app: Any) -> Any:
        assert app is self.app
        return self.publisher


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(monkeypatch)


def signature_of(error: Exception | None = None) -> Any:
    signature = Mock(args=(1,), kwargs={"a": 2}, options={"queue": "q"})
    signature.type.apply_async.side_effect = error
    return signature


async def test_a_signature_is_kept_and_sent(broker: Broker) -> None:
    signature = signature_of()
    await publish(signature, broker.app)
    applied = signature.type.apply_async.call_args
    kept = applied.kwargs["producer"]
    assert applied == call((1,), {"a": 2}, producer=kept, queue="q")
    assert broker.publisher.send.await_args_list == [call(kept)]
    signature.apply_async.assert_not_called()


@pytest.mark.parametrize("why", ["this message", "this broker"])
async def test_a_message_that_cannot_be_kept_is_sent_in_a_thread(broker: Broker, why: str) -> None:
    signature = signature_of(NotPlain())
    if why == "this broker":
        broker.publisher = None
    await publish(signature, broker.app)
    signature.apply_async.assert_called_once_with()
    with pytest.raises(NotPlain):
        await send(broker.app, Mock(side_effect=NotPlain))


async def test_an_error_of_another_kind_is_the_callers(broker: Broker) -> None:
    signature = signature_of(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await publish(signature, broker.app)
    broker.publisher.send.assert_not_awaited()
    broker.publisher.send.side_effect = redis.ConnectionError("gone")
    failing = signature_of()
    with pytest.raises(redis.ConnectionError):
        await publish(failing, broker.app)
    for each in (signature, failing):
        each.apply_async.assert_not_called()


async def test_a_message_that_a_function_makes_is_sent_once(broker: Broker) -> None:
    function = Mock()
    assert await send(broker.app, function) is function.return_value
    assert broker.publisher.send.await_args_list == [call(function.call_args.args[0])]
    assert isinstance(function.call_args.args[0], KeptMessages)


async def test_an_app_has_one_publisher_and_a_failure_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = AsyncMock(side_effect=[OSError("away"), None, "another app's"])
    monkeypatch.setattr(publishing, "_open", opened)
    app, other = (Celery(set_as_current=False) for _ in range(2))
    failed = await asyncio.gather(*[publisher_of(app)] * 1, return_exceptions=True)
    assert [type(each) for each in failed] == [OSError]
    assert await asyncio.gather(publisher_of(app), publisher_of(app)) == [None, None]
    assert await publisher_of(app) is None
    assert await publisher_of(other) == "another app's"
    assert opened.await_count == 3


async def test_if_each_message_has_an_event_or_the_transport_is_not_ours_celery_publishes() -> None:
    for broker, events in (("memory://localhost", False), ("redis://127.0.0.1:1", True)):
        app = Celery(broker=broker, set_as_current=False)
        app.conf.task_send_sent_event = events
        assert await publisher_of(app) is None
        app.close()


def test_a_message_goes_in_a_pipeline_only_if_that_is_asked_for() -> None:
    assert Context().run(is_wanted.get) is False
