"""The sublists of tenants that the sharing script makes, with a real Redis."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.shared_queue import KEYS, SAFE_S, Shared, id_of, message


@pytest.fixture
def shared(server: EmbeddedRedis) -> Iterator[Shared]:
    server.flush()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield Shared(client)


# The number of tenants, and of messages that come and are taken at a time.
@pytest.mark.parametrize(
    ("seed", "tenants", "comes", "taken"),
    [
        (1, 3, 90, 70),
        (2, 3, 20, 30),
        (3, 9, 40, 60),
        (4, 50, 12, 80),
        (5, 150, 5, 40),
        (6, 2, 3, 2),
    ],
)
def test_tenants_are_served_in_the_order_of_what_they_have_used(
    shared: Shared, seed: int, tenants: int, comes: int, taken: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same each time
    names = ["", *(f"tenant {number}" for number in range(1, tenants))]
    for _ in range(20):
        for _ in range(chance.randint(0, min(tenants, 30))):
            tenant = names[min(int(chance.expovariate(3 / tenants)), tenants - 1)]
            shared.push(tenant, chance.randint(1, comes))
        if chance.random() < 0.1:
            shared.push_odd()
        shared.check()
        shared.take(chance.randint(0, 2 * taken))
        if chance.random() < 0.3:
            shared.check()
            shared.charge(chance.choice(names), chance.choice([0.5, 3, 20]))
        if chance.random() < 0.3:
            shared.return_one()
    while shared.should.list or any(shared.should.sublists.values()):
        shared.take(100)
        shared.check()
    assert shared.books.hlen("unacked") == 0


# How a message names its tenant, and the tenant's id.
@pytest.mark.parametrize(
    ("written", "tenant"),
    [
        ('{"headers": {"tenant": "zoë"}', "zoë"),
        ('{"headers":{"tenant":"zoë"}', "zoë"),
        ('{"headers": {"tenant": "zo\\u00eb"}', "zoë"),
        ('{"headers": {"tenant": "  zo\\u00eb\\t"}', "zoë"),
        ('{"headers": {"tenant": " zoë and co "}', "zoë and co"),
        ('{"headers": {"tenant": "a\\\\b"}', "a\\b"),
        ('{"headers": {"tenant": "  "}', ""),
        ('{"headers": {"tenant": ""}', ""),
        ('{"headers": {"tenant": 5}', ""),
        ('{"headers": {"tenant": null}', ""),
        ('{"headers": {}', ""),
        ('{"headers": "none", "tenant": "zo\\u00eb"', ""),
        ('{"tenant": "zo\\u00eb"', ""),
        ('{"headers": {"tenant": "zo\\u00eb", "tenant": 5}', ""),
        ('{"headers": {"x": "\\"tenant\\": \\"other\\""}', ""),
        ('["no message", {"tenant": "zo\\u00eb"}, {', ""),
    ],
)
def test_a_tenant_is_named_in_a_header_of_a_message(
    shared: Shared, written: str, tenant: str
) -> None:
    text = f'{written}, "properties": {{"delivery_tag": "t", "delivery_info": {{}}}}}}'
    shared.books.lpush("a", text, message("other", "other"))
    assert shared.share() == 2
    times = dict(shared.books.zrange("a.tenants.past", 0, -1, withscores=True))
    assert times == {id_of(tenant): 1, id_of("other"): 1}


@pytest.mark.parametrize(
    ("flag", "is_first"),
    [('"redelivered": true', True), ('"redelivered":true', True), ('"redelivered": false', False)],
)
def test_redelivered_messages_come_before_new_ones(
    shared: Shared, flag: str, *, is_first: bool
) -> None:
    shared.push("big", 200)
    shared.check()
    shared.take(128)
    shared.books.lpush("a", message("again", "big").replace('"body"', f'{flag}, "body"'))
    assert shared.share() == 2
    assert (shared.actual["list"][0] == "again") is is_first


# The number of messages before and behind the one with a tenant, and whether it is seen.
@pytest.mark.parametrize(
    ("before", "behind", "is_seen"),
    [
        (0, 99, True),
        (31, 99, True),
        (32, 99, False),
        (99, 0, True),
        (99, 31, True),
        (99, 32, False),
    ],
)
def test_a_queue_is_looked_into_at_both_ends(
    shared: Shared, before: int, behind: int, *, is_seen: bool
) -> None:
    for tenant, count in (("", before), ("big", 1), ("", behind)):
        if count:
            shared.push(tenant, count)
    shared.check()
    assert bool(shared.books.exists("a.tenants.memo")) is is_seen


def pause_ms(books: Any) -> int:
    return int(books.pttl("a.tenants.pause"))


def is_short(pause_ms: int) -> bool:
    """Whether the pause is short, or over already on a slow machine."""
    return pause_ms <= 500 and pause_ms != -1


def test_one_worker_looks_and_the_others_rest_meanwhile(shared: Shared) -> None:
    again = shared.script, [*KEYS, "a"], [1700, SAFE_S, 1, 60_000]

    def look() -> int:
        return int(again[0](*again[1:]))

    assert look() == 0
    assert not shared.books.keys("*"), "nothing is stored for an empty queue"
    shared.push("", 3)
    assert look() == 1
    assert is_short(pause_ms(shared.books)), "a message may soon name a tenant"
    shared.books.set("a.tenants.pause", "1")
    shared.push("big", 1)
    assert look() == 1
    shared.books.delete("a.tenants.pause")
    assert (look(), shared.should.share()) == (2, 2)
    assert is_short(pause_ms(shared.books))
    shared.books.set("a.tenants.pause", "1")
    shared.push("big", 300)
    assert look() == 2
    assert shared.actual["sublists"] == {}
    shared.books.delete("a.tenants.pause")
    assert look() == 3, "not all messages were read"
    assert pause_ms(shared.books) <= 5
    shared.books.delete("a.tenants.pause")
    assert look() == 2
    assert 500 < pause_ms(shared.books) <= 60_000
    for key in ("a.tenants.memo", "a.tenants.past"):
        assert 590_000 < shared.books.pttl(key) <= 600_000
    assert shared.books.pttl("a.tenants") == -1


@pytest.mark.parametrize(
    ("left", "then", "outcome"), [(64, 64, 2), (63, 128, 2), (32, 128, 2), (31, 128, 3)]
)
def test_a_window_that_has_become_short_is_filled_from_the_lines(
    shared: Shared, left: int, then: int, outcome: int
) -> None:
    shared.push("big", 150)
    shared.push("small", 100)
    shared.check()
    shared.take(128 - left)
    assert shared.share(pause_ms=60_000) == outcome
    assert len(shared.actual["list"]) == then
    assert (pause_ms(shared.books) <= 5) is (outcome == 3)
    assert shared.share() == 2


def test_several_lists_are_put_in_order_together(shared: Shared) -> None:
    for name, tenant, count in (("a", "big", 300), ("b", "", 5), ("c", "big", 1)):
        shared.books.lpush(name, *(message(f"{name}{at}", tenant) for at in range(count)))
    keys = [*KEYS, "empty", "b", "a", "c"]
    assert shared.script(keys, [1700, SAFE_S, 1, 90]) == 3
    assert shared.script([*KEYS, "empty", "b", "c"], [1700, SAFE_S, 1, 90]) == 2
    assert shared.script([*KEYS, "b"], [1700, SAFE_S, 1, 90]) == 1
    assert shared.script([*KEYS, "empty"], [1700, SAFE_S, 1, 90]) == 0
    assert shared.script(KEYS, [1700, SAFE_S, 1, 90]) == 0
    assert shared.books.exists("a.tenants", "a.tenants.memo", "c.tenants.memo") == 3
    many = [f"many {number}" for number in range(36)]
    for name in many:
        shared.books.lpush(name, *(message(f"{name} {at}", "big") for at in range(256)))
    assert shared.script([*KEYS, *many], [1700, SAFE_S, 1, 90]) == 2
    assert {shared.books.llen(name) for name in many} == {128}
    shared.books.delete("c", "c.tenants.pause")
    assert shared.script([*KEYS, "c"], [1700, SAFE_S, 1, 90]) == 0, "the list has become empty"


def test_a_parked_message_is_an_entry_with_a_lease_and_its_tag_is_its_own(shared: Shared) -> None:
    shared.push("big", 130)
    shared.books.lpush("a", message("again@5f", "big"), message("ä", "big"))
    seconds, us = shared.books.time()
    shared.share()
    entries = {tag: json.loads(entry) for tag, entry in shared.books.hgetall("unacked").items()}
    names = [*[*shared.texts][128:], "again", "ä"]
    assert sorted(entries) == sorted(f"{name}@0" for name in names)
    assert entries["ä@0"] == [json.loads(message("ä", "big")), "", "a"]
    size = len(message("ä", "big").encode())
    assert shared.books.lindex(f"a.tenant.{id_of('big')}", 0) == f"{size} ä@0"
    assert set(shared.books.zmscore("index", [*entries])) == {1700}
    [end_s] = set(shared.books.zmscore("leases", [*entries]))
    assert -0.001 <= end_s - (seconds + us / 1e6) - SAFE_S < 10


def test_an_entry_that_only_looks_like_a_message_stays_in_the_list(shared: Shared) -> None:
    shared.push("big", 130)
    odd = [message(name, "big")[:-1] for name in ("odd 1", "odd 2", "odd 3")]
    shared.books.lpush("a", *odd)
    shared.share()
    assert shared.books.llen("a") == 128 + 3
    assert sorted(shared.books.lrange("a", 0, 2)) == odd
    assert shared.books.llen(f"a.tenant.{id_of('big')}") == shared.books.hlen("unacked") == 2


# How long ago a parked message was renewed, in seconds, and whether it is renewed now.
@pytest.mark.parametrize(("old_s", "is_renewed"), [(SAFE_S / 2 + 1, True), (SAFE_S / 2 - 1, False)])
@pytest.mark.parametrize("leases", [1, 0])
def test_only_the_leases_of_messages_in_sublists_are_renewed(
    shared: Shared, leases: int, old_s: float, *, is_renewed: bool
) -> None:
    shared.push("big", 131)
    shared.share()
    tag, *_, without = shared.books.hkeys("unacked")
    before = {tag: 1700 - old_s, without: 1700 - old_s, "held@5f": 1700 - old_s}
    shared.books.zadd("index", before)
    shared.books.zadd("leases", {tag: 5, "held@5f": 5})
    shared.books.zrem("leases", without)
    shared.share(leases=leases)
    assert shared.books.zscore("index", tag) == (1700 if is_renewed else before[tag])
    assert (shared.books.zscore("leases", tag) == 5) is not (is_renewed and leases)
    assert shared.books.zscore("index", "held@5f") == before["held@5f"]
    assert shared.books.zscore("leases", "held@5f") == 5
    assert shared.books.zscore("leases", without) is None


@pytest.mark.parametrize("back", [1, 60, 70])
def test_a_message_put_back_from_a_sublist_does_not_come_from_it_again(
    shared: Shared, back: int
) -> None:
    shared.push("big", 200)
    shared.check()
    parked = [*shared.texts][128:]
    shared.books.hdel("unacked", *(f"{name}@0" for name in parked[:back]))
    shared.take(128)
    shared.share()
    assert shared.actual["list"] == parked[back:]
    assert shared.actual["sublists"] == {}
    assert shared.books.hlen("unacked") == 0
