"""Jobs of tenants in a queue on a server: pushed, put in order by a worker, and taken."""

import json
import uuid
from typing import Any

import pytest

from tests.integration.aio.transport_harness import Receiver

WINDOW = 128


def push(books: Any, tenant: str | None, *bodies: Any, queue: str = "a", **more: Any) -> None:
    """Push messages as an unmodified Celery producer does, in one round trip."""
    with books.pipeline(transaction=False) as pipe:
        for body in bodies:
            headers = {"id": str(body), **({"tenant": tenant} if tenant else {})}
            properties = {
                "delivery_tag": str(uuid.uuid4()),
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "delivery_mode": 2,
            }
            message = {
                "body": json.dumps(body),
                "content-type": "application/json",
                "content-encoding": "utf-8",
                "headers": headers,
                "properties": properties,
            }
            pipe.lpush(queue, json.dumps(message | more))
        pipe.execute()


def share(receiver: Receiver, books: Any) -> None:
    """Put the queue in order until every message has been read."""
    for _ in range(200):
        books.delete("a.tenants.pause")
        before = books.lrange("a", 0, -1)
        receiver.channel.sharing._looked_s = float("-inf")
        receiver.channel.share()
        if books.lrange("a", 0, -1) == before:
            return
    pytest.fail("it did not end")


def take(books: Any, count: int) -> list[Any]:
    """Take messages as a worker does, in their order."""
    return [json.loads(json.loads(text)["body"]) for text in books.rpop("a", count) or ()]


def take_all(receiver: Receiver, books: Any) -> list[Any]:
    taken: list[Any] = []
    while books.llen("a"):
        taken += take(books, 50)
        share(receiver, books)
    return taken


def names(tenant: str, count: int, first: int = 0) -> list[str]:
    return [f"{tenant}{number}" for number in range(first, first + count)]
