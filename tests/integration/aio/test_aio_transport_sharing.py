"""The order in which messages of several tenants are taken, with a real Redis."""

import hashlib
import json
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import redis
import redis.asyncio

from tests.integration.aio.tenant_jobs import WINDOW, names, push, share, take, take_all
from tests.integration.aio.transport_harness import Receiver, calls, receiving, waiting
from worker.aio.transport.sharing import QueueSharing
from worker.keypool import LeaseRequest
from worker.rotation.tenant_charges import TOKENS_A_REQUEST, TenantCharges


def test_ten_jobs_behind_thousands_of_another_tenant_come_among_the_first(
    receiver: Receiver, books: Any
) -> None:
    push(books, "big", *names("A", 3000))
    share(receiver, books)
    assert take(books, 100) == names("A", 100)
    push(books, "small", *names("B", 10))
    share(receiver, books)
    # A new tenant does not have to wait with its first messages.
    assert take(books, 10) == names("B", 10)
    push(books, "small", *names("B", 30, first=10))
    share(receiver, books)
    first = take(books, 50)
    assert [name for name in first if name[0] == "B"] == names("B", 28, first=10)
    rest = take_all(receiver, books)
    every = names("A", 100) + first + rest
    assert [name for name in every if name[0] == "A"] == names("A", 3000)
    assert Counter(every).most_common(1)[0][1] == 1
    assert len(every) == 3030
    assert books.hlen("unacked") == books.zcard("unacked_index") == 0
    assert books.zcard("unacked.leases") == 0


def test_equal_tenants_are_served_equally_in_any_order_of_their_jobs(
    receiver: Receiver, books: Any
) -> None:
    for tenant in "ABCDEFGHI":
        push(books, tenant, *names(tenant, 100))
    push(books, None, *names("N", 100))  # messages without a tenant count as one tenant's
    share(receiver, books)
    served: Counter[str] = Counter()
    for _ in range(10):
        served.update(name[0] for name in take(books, 50))
        share(receiver, books)
    assert set(served.values()) == {50}
    assert len(take_all(receiver, books)) == 500


def test_a_queue_in_which_no_job_names_a_tenant_stays_as_it_is(
    receiver: Receiver, books: Any
) -> None:
    push(books, None, *range(500))
    before = books.lrange("a", 0, -1)
    share(receiver, books)
    assert books.lrange("a", 0, -1) == before
    assert sorted(books.keys("a*")) == ["a", "a.tenants.pause"]
    # One worker reads both ends of a list; for half a second, the others only see that it does.
    names = ("evalsha", "exists", "llen", "lrange", "set", "rpush", "ltrim")
    spent = {name: calls(books, name) for name in names}
    for _ in range(20):
        receiver.channel.share()
    assert {name: calls(books, name) - count for name, count in spent.items()} == dict.fromkeys(
        names, 0
    )
    receiver.channel.sharing._looked_s = float("-inf")
    receiver.channel.share()
    assert {name: calls(books, name) - count for name, count in spent.items()} == {
        "evalsha": 1, "exists": 5, "llen": 4, "lrange": 0, "set": 1, "rpush": 0, "ltrim": 0,
    }  # fmt: skip


def test_a_tenant_that_was_silent_has_no_credit_for_it(receiver: Receiver, books: Any) -> None:
    push(books, "small", "B0")
    push(books, "big", *names("A", 400))
    share(receiver, books)
    take(books, 300)
    share(receiver, books)
    push(books, "small", *names("B", 60, first=1))
    share(receiver, books)
    # A few messages ahead, and then in turn.
    assert Counter(name[0] for name in take(books, 76)) == {"B": 46, "A": 30}


async def test_tokens_count_like_requests(receiver: Receiver, url: str, books: Any) -> None:
    push(books, "big", *names("A", 300))
    push(books, "small", *names("B", 300))
    share(receiver, books)
    take(books, 100)
    share(receiver, books)
    async with redis.asyncio.Redis.from_url(url) as broker:
        charges = TenantCharges(broker)
        for number in range(50):  # each of the fifty jobs used as much as two requests
            job = LeaseRequest(by=f"A{number}", tenant="big", queue="a")
            charges.note(job, 2 * TOKENS_A_REQUEST)
        await charges._task
    share(receiver, books)
    assert Counter(name[0] for name in take(books, 100)) == {"A": 25, "B": 75}


def test_a_name_is_one_tenant_however_its_producer_writes_it(
    receiver: Receiver, books: Any
) -> None:
    push(books, "Zoë", *names("A", 200))
    push(books, " Zoë ", *names("B", 200))
    for text in books.lrange("a", 0, 100):
        books.lrem("a", 1, text)
        books.lpush("a", json.dumps(json.loads(text), ensure_ascii=False))
    share(receiver, books)
    digest = hashlib.sha1("Zoë".encode()).hexdigest()  # noqa: S324 - a name
    assert books.zrange("a.tenants", 0, -1) == [digest[:16]]


def test_a_redelivered_message_is_the_first_of_its_tenant(receiver: Receiver, books: Any) -> None:
    push(books, "big", *names("A", 300))
    share(receiver, books)
    [text] = books.rpop("a", 1)
    take(books, books.llen("a"))  # the whole window is gone
    message = json.loads(text)
    message["headers"]["redelivered"] = True
    books.rpush("a", json.dumps(message))
    push(books, "big", "new")
    share(receiver, books)
    assert take(books, 2) == ["A0", f"A{WINDOW}"]


def test_a_worker_serves_tenants_in_turn(url: str, books: Any) -> None:
    push(books, "big", *names("A", 600))
    with receiving(url, "a", prefetch=4) as receiver:
        receiver.with_hub()
        receiver.until(lambda: books.exists("a.tenants"))
        push(books, "small", *names("B", 10))
        receiver.until(lambda: '"B9"' in str(books.lrange("a", -30, -1)))
        receiver.on_message = lambda message: message.ack()
        for message in receiver.messages:
            message.ack()
        receiver.until(lambda: len(receiver.bodies) == 610)
        last = max(position for position, name in enumerate(receiver.bodies) if name[0] == "B")
        assert last < 4 + 2 * 10
    assert [name for name in receiver.bodies if name[0] == "A"] == names("A", 600)
    assert waiting(books, "a") == []


def test_once_no_job_names_a_tenant_any_more_the_queue_is_left_alone(
    receiver: Receiver, books: Any
) -> None:
    push(books, "big", *names("A", 5))
    push(books, None, *names("N", 5))
    share(receiver, books)
    assert books.exists("a.tenants.memo")
    take(books, 10)
    push(books, None, *names("N", 300))
    share(receiver, books)
    assert books.llen("a") == 300
    assert not books.exists("a.tenants.memo", "a.tenants.past", "a.tenants")


def test_the_hub_is_woken_for_the_order_as_often_as_messages_wait(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[float]()
    look = QueueSharing.share

    def counting(self: QueueSharing) -> None:
        before = self._looked_s
        look(self)
        looks.extend([self._looked_s] if self._looked_s != before else [])

    monkeypatch.setattr(QueueSharing, "share", counting)
    with receiving(url, "a", prefetch=2) as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty and not receiver.channel._in_poll)
        cycle = receiver.channel.connection.cycle
        cycle.share()
        assert cycle._share_at_s > time.monotonic() + 4, "no message waits"
        del looks[:]
        push(books, "A", *names("A", 5))
        push(books, "B", *names("B", 5))
        receiver.until(lambda: len(looks) >= 3)  # with no room for more messages
        pauses = [later - earlier for earlier, later in pairwise(looks)]
        assert all(pause >= 0.1 for pause in pauses)
        for message in receiver.messages:
            message.ack()
        receiver.until(lambda: len(receiver.messages) >= 4)
    assert cycle._sharing.canceled


def test_many_tenants_are_served_equally_and_completely(receiver: Receiver, books: Any) -> None:
    for number in range(150):
        push(books, f"tenant-{number}", *(f"{number}:{job}" for job in range(number % 5 + 1)))
    share(receiver, books)
    sizes = [100 + number % 7 for number in range(10)]  # odd and even
    taken: list[str] = []
    for size in sizes:
        taken += take(books, size)
        share(receiver, books)
    by_tenant: dict[str, list[str]] = {}
    for name in taken:
        by_tenant.setdefault(name.split(":")[0], []).append(name)
    assert len(taken) == len(set(taken)) == 450
    assert all(
        jobs == [f"{number}:{job}" for job in range(int(number) % 5 + 1)]
        for number, jobs in by_tenant.items()
    )
    first = Counter(name.split(":")[0] for name in taken[:150])
    assert max(first.values()) <= 2
    assert books.hlen("unacked") == 0
