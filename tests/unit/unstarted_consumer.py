"""A consumer whose worker was not started, and a message for it."""

import json
from types import SimpleNamespace
from typing import Any

import redis
from kombu.message import Message

from worker.hooks.consumer import Consumer
from worker.hooks.quarantine import Quarantine

HEADERS = {"task": "tasks.ai.complete", "id": "job-1"}
SECRET = "canary-1180 of a prompt"


class Broker:
    """A double of channel and result store: it notes rejected messages and stores nothing."""

    def __init__(self) -> None:
        self.rejected: list[str] = []

    def basic_reject(self, tag: str, *, requeue: bool) -> None:
        assert not requeue
        self.rejected.append(tag)

    def mark_as_failure(self, *_: Any, **__: Any) -> None:
        raise redis.ConnectionError("away")


def consumer(broker: Broker, strategy: Any) -> Consumer:
    """A consumer whose worker was not started."""
    made = Consumer.__new__(Consumer)
    made.connection_errors = (redis.ConnectionError, OSError, KeyError)  # as kombu names them
    made.channel_errors = (redis.ResponseError,)
    made.strategies = {"tasks.ai.complete": strategy}
    made.app = SimpleNamespace(backend=broker)
    made.event_dispatcher, made.on_task_message = None, set()
    made.quarantine = Quarantine(made)
    made.restart_count, made._maximum_prefetch_restored = 0, True
    made.call_soon = lambda function, *args: function(*args)
    return made


def message(
    broker: Broker, headers: Any = HEADERS, body: Any = ([], {"prompt": SECRET}, {})
) -> Message:
    return Message(  # type: ignore[no-untyped-call, unused-ignore]
        body=json.dumps(body), channel=broker, delivery_tag="t1", headers=headers,
        content_type="application/json", content_encoding="utf-8",
        accept={"application/json"},
    )  # fmt: skip
