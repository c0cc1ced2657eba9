"""Lists and delayed messages on a server, and the results of the taking script."""

import json
from typing import Any

import redis

from worker.aio.transport.messages import read_batch
from worker.aio.transport.scripts import TAKE

KEYS = ["unacked", "index", "leases", "unreadable"]
SUFFIX = "@0123abcd5"
LEADER = "@0123abcd"
LEFT_ALONE = "unacked.left"
HOUR_US = 3_600_000_000


def text_of(tag: str, **more: Any) -> str:
    properties = {"delivery_tag": tag, "delivery_info": {"exchange": "e", "routing_key": "k"}}
    return json.dumps({"body": tag, **more, "properties": properties})


class Server:
    """Lists and delayed messages on a server."""

    def __init__(self, client: "redis.Redis") -> None:
        self.client: Any = client
        self.script: Any = client.register_script(TAKE)
        self.due_in_us = 0
        self.set_aside = 0
        self.taken_tags: list[str] = []

    def now_us(self) -> int:
        seconds, us = self.client.time()
        return int(seconds * 1_000_000 + us)

    def push(self, name: str, *tags: str) -> None:
        self.client.lpush(name, *map(text_of, tags))

    def delay(self, queue: str, row: int, due_us: int, *tags: str) -> None:
        """Delay messages until consecutive instants, beginning with this one."""
        for at, tag in enumerate(tags):
            self.client.zadd(f"{queue}.{row}.due", {tag: due_us + at})
            self.client.hset(f"{queue}.texts", tag, text_of(tag))
        first = self.client.get(f"{queue}.next")
        if first is None or float(first) > due_us:
            self.client.set(f"{queue}.next", due_us)

    def take(
        self,
        lists: list[list[str]],
        *,
        limit: int = 100,
        in_turn: bool = True,
        lease_s: float = 60,
        delayed: tuple[tuple[str, int, int], ...] = (),
        suffix: str = SUFFIX,
        silence_ms: int = 50_000,
    ) -> list[tuple[str, str]]:
        """Take messages; return the list and the body of each.

        Args:
            lists: The lists of the queues for each priority.
            limit: The highest number of messages.
            in_turn: Whether the queues take turns.
            lease_s: The length of a lease.
            delayed: The name and number of each delayed queue, and the number of its main queue.
            suffix: The suffix of the tags.
            silence_ms: How long a leader may be silent.
        """
        names = [name for row in lists for name in row]
        keys = [*KEYS, *names, *(["clock"] if delayed else [])]
        for queue, _, _ in delayed:
            sets = [f"{queue}.{row}.due" for row in range(len(lists))]
            keys += [f"{queue}.next", f"{queue}.leader", f"{queue}.texts", *sets]
        numbers = [number for _, *its in delayed for number in its]
        arguments = [limit, "1700.5", len(lists[0]), int(in_turn), suffix, lease_s, len(lists)]
        answer = self.script(keys, [*arguments, silence_ms, *numbers])
        self.set_aside, taken, self.due_in_us = read_batch(answer, names)
        self.taken_tags = [tag for _, tag, _ in taken]
        return [(name, json.loads(text)["body"]) for name, _, text in taken]

    def texts(self, key: str) -> list[str]:
        return [each.decode() for each in self.client.lrange(key, 0, -1)]

    def tags(self, name: str) -> list[str]:
        """The tags, the next one first."""
        return [json.loads(text)["body"] for text in reversed(self.texts(name))]
