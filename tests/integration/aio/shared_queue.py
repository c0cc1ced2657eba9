"""A queue that a server keeps in order for its tenants, and a model of the same queue."""

import hashlib
import json
from typing import Any

from tests.integration.aio.fair_order import NOBODY, FairQueue
from worker.aio.transport.scripts import CHARGE, SHARE

KEYS = ["unacked", "index", "leases"]
SAFE_S = 120


def id_of(tenant: str) -> str:
    return hashlib.sha1(tenant.encode()).hexdigest()[:16] if tenant else NOBODY  # noqa: S324 - a name


def message(name: str, tenant: str = "", **headers: Any) -> str:
    headers = ({"tenant": tenant} if tenant else {}) | headers
    properties = {"delivery_tag": name, "delivery_info": {"exchange": "", "routing_key": "a"}}
    return json.dumps({"body": name, "headers": headers, "properties": properties})


class Shared:
    """A queue on a server, and its model."""

    def __init__(self, books: Any) -> None:
        self.books, self.should = books, FairQueue()
        self.script, self.sent, self.taken = books.register_script(SHARE), 0, list[str]()
        self.texts: dict[str, str] = {}

    def push(self, tenant: str, count: int) -> None:
        names = [f"{id_of(tenant)}:{self.sent + number}" for number in range(count)]
        self.sent += count
        self.texts |= {name: message(name, tenant) for name in names}
        self.books.lpush("a", *(self.texts[name] for name in names))
        self.should.list += names

    def push_odd(self) -> None:
        self.sent += 1
        self.books.lpush("a", f"odd {self.sent}")
        self.should.list.append(f"odd {self.sent}")

    def take(self, count: int) -> None:
        self.books.rpop("a", count)
        self.taken += self.should.list[:count]
        del self.should.list[:count]

    def return_one(self) -> None:
        """Return one message, as a worker that ends does."""
        if not self.taken or ":" not in (name := self.taken.pop()):
            return
        its = json.loads(self.texts[name])
        its["headers"]["redelivered"] = True
        self.books.rpush("a", json.dumps(its))
        self.should.list.insert(0, name)
        self.should.again[name] += 1

    def charge(self, tenant: str, amount: float) -> None:
        self.books.eval(CHARGE, 1, "a", id_of(tenant), amount)
        self.should.charge(id_of(tenant), amount)

    def share(self, *, leases: int = 1, pause_ms: int = 90) -> int:
        self.books.delete("a.tenants.pause")
        return int(self.script([*KEYS, "a"], [1700, SAFE_S, leases, pause_ms]))

    @property
    def actual(self) -> dict[str, Any]:
        keys = self.books.keys("a.tenant.*")
        with self.books.pipeline() as pipe:
            pipe.lrange("a", 0, -1).hget("a.tenants.memo", "at")
            for key in ("a.tenants", "a.tenants.past"):
                pipe.zrange(key, 0, -1, withscores=True)
            for key in keys:
                pipe.lrange(key, 0, -1)
            texts, at, times, past, *sublists = pipe.execute()
        return {
            "list": [name_of(text) for text in reversed(texts)],
            "sublists": {
                key.removeprefix("a.tenant."): [
                    ref.partition(" ")[2].removesuffix("@0") for ref in reversed(sublist)
                ]
                for key, sublist in zip(keys, sublists, strict=True)
            },
            "times": dict(times),
            "past": dict(past),
            "at": float(at or 0),
        }

    @property
    def expected(self) -> dict[str, Any]:
        return {
            "list": self.should.list,
            "sublists": {
                name: [*sublist] for name, sublist in self.should.sublists.items() if sublist
            },
            "times": self.should.times,
            "past": self.should.past,
            "at": self.should.at,
        }

    def check(self) -> None:
        assert self.share() == self.should.share()
        assert self.actual == self.expected
        parked = sorted(name for sublist in self.should.sublists.values() for name in sublist)
        for tags in (self.books.hkeys("unacked"), *(self.books.zrange(k, 0, -1) for k in KEYS[1:])):
            assert sorted(tag.removesuffix("@0") for tag in tags) == parked


def name_of(text: str) -> str:
    return str(json.loads(text)["body"]) if text.startswith("{") else text
