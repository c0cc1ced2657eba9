"""A consumer that is killed: notes each message in a set, then acknowledges it."""

import sys

import redis

from tests.integration.aio.transport_harness import tube

url, transport = sys.argv[1:]
store = redis.Redis.from_url(url)
with tube(url, "a", "b", transport=transport, prefetch=40) as one:
    one.with_hub()

    def note(message: object) -> None:
        store.sadd("done", one.bodies[-1])
        message.ack()  # type: ignore[attr-defined]

    one.on_message = note
    store.incr("ready")
    while True:
        one.turn()
