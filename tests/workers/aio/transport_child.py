"""A consumer that tests kill: it notes each message in a set, then acknowledges it."""

import sys

import redis

from tests.integration.aio.transport_harness import receiving

url, transport = sys.argv[1:]
store = redis.Redis.from_url(url)
with receiving(url, "a", "b", transport=transport, prefetch=40) as receiver:
    receiver.with_hub()

    def note(message: object) -> None:
        store.sadd("done", receiver.bodies[-1])
        message.ack()  # type: ignore[attr-defined]

    receiver.on_message = note
    store.incr("ready")
    while True:
        receiver.turn()
