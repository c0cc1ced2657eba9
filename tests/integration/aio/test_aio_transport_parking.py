"""The messages of a long queue with several tenants are parked, and none is lost."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from tests.integration.aio.tenant_jobs import WINDOW, names, push, share, take_all
from tests.integration.aio.transport_harness import STOCK, Receiver, receiving
from worker.aio.transport.sharing import SHARE_S


def test_a_queue_that_is_parted_counts_all_its_messages_and_is_purged_whole(
    receiver: Receiver, books: Any
) -> None:
    push(books, "big", *names("A", 500))
    push(books, None, *names("N", 20))
    share(receiver, books)
    assert books.llen("a") == WINDOW
    assert receiver.channel._size("a") == 520
    books.delete("a")
    assert receiver.channel._has_queue("a")
    assert receiver.channel._purge("a") == 520 - WINDOW
    assert (
        receiver.channel._size("a") == books.hlen("unacked") == books.zcard("unacked.leases") == 0
    )
    assert [key for key in books.keys("a*") if books.ttl(key) < 0] == []


@pytest.mark.parametrize("lease_s", [0, 30])
def test_parked_messages_have_leases_if_leases_are_used(url: str, books: Any, lease_s: int) -> None:
    with receiving(url, prefetch=10, lease_s=lease_s) as receiver:
        receiver.channel.sharing.add("a")
        push(books, "big", *names("A", 300))
        share(receiver, books)
        assert books.hlen("unacked") == books.zcard("unacked_index") == 300 - WINDOW
        assert books.zcard("unacked.leases") == (300 - WINDOW if lease_s else 0)


def test_the_name_of_a_tenant_stands_in_its_messages_only(receiver: Receiver, books: Any) -> None:
    push(books, "ada@example.com", *names("A", 300))
    share(receiver, books)
    assert not [key for key in books.keys("*") if "ada" in key]
    assert not [member for member in books.zrange("a.tenants", 0, -1) if "ada" in member]


def test_parked_messages_return_to_their_queue_when_no_worker_renews_them(
    receiver: Receiver, url: str, books: Any
) -> None:
    push(books, "big", *names("A", WINDOW + 40))
    share(receiver, books)
    tags = books.zrange("unacked.leases", 0, -1)
    assert len(tags) == 40
    books.zadd("unacked.leases", dict.fromkeys(tags, 1))  # all workers died long ago
    with receiving(url, "a") as other:
        other.channel.recover()
    assert books.llen("a") == WINDOW + 40
    # No worker has died of these messages.
    assert not [text for text in books.lrange("a", 0, -1) if '"deaths"' in text]
    assert sorted(take_all(receiver, books)) == sorted(names("A", WINDOW + 40))


def test_a_worker_renews_what_is_parked(receiver: Receiver, books: Any) -> None:
    push(books, "big", *names("A", WINDOW + 40))
    share(receiver, books)
    leases = dict(books.zrange("unacked.leases", 0, -1, withscores=True))
    books.zadd("unacked_index", dict.fromkeys(leases, 1))
    share(receiver, books)
    assert min(books.zmscore("unacked_index", list(leases))) > 1
    assert min(books.zmscore("unacked.leases", list(leases))) > min(leases.values())


def test_a_stock_worker_gets_every_message_also_those_that_were_parked(
    receiver: Receiver, url: str, books: Any
) -> None:
    push(books, "big", *names("A", WINDOW + 20))
    share(receiver, books)
    books.zadd("unacked_index", dict.fromkeys(books.hkeys("unacked"), 1))
    with receiving(
        url,
        "a",
        transport=STOCK,
        prefetch=500,
        unacked_restore_throttle=1,
        visibility_timeout=3_600,
    ) as stock:
        stock.until(
            lambda: (
                stock.connection.transport.cycle.maybe_restore_messages()
                or len(stock.messages) == WINDOW + 20
            )
        )
        assert sorted(stock.bodies) == sorted(names("A", WINDOW + 20))


def test_a_full_server_refuses_before_anything_was_moved(receiver: Receiver, books: Any) -> None:
    push(books, "big", *names("A", WINDOW + 20))
    books.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError):
            share(receiver, books)
    finally:
        books.config_set("maxmemory", 0)
    assert waiting_names(books) == names("A", WINDOW + 20)


def waiting_names(books: Any) -> list[Any]:
    return [json.loads(json.loads(text)["body"]) for text in reversed(books.lrange("a", 0, -1))]


def test_a_long_queue_is_parted_without_pauses(
    receiver: Receiver, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(books, "big", *names("A", 1_000))
    chores = list[Callable[[], None]]()
    cycle = SimpleNamespace(
        hub=object(),
        chores=SimpleNamespace(begin=lambda _what, _of, chore: chores.append(chore)),
    )
    monkeypatch.setattr(receiver.channel.connection, "cycle", cycle)
    receiver.channel.sharing._looked_s = float("-inf")
    receiver.channel.share()

    def pause(after_s: float) -> None:
        assert after_s < SHARE_S
        books.delete("a.tenants.pause")  # it is over by then

    with monkeypatch.context() as patched:
        patched.setattr("worker.aio.transport.sharing.time.sleep", pause)
        [chore] = chores
        chore()
    assert books.llen("a") == WINDOW
    assert receiver.channel._size("a") == 1_000
