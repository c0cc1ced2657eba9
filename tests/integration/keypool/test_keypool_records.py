"""What the pool keeps in Redis, and what it shows of it."""

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.keypool_asking import INVALID, OK, Make, ask, lease, refused
from worker.keypool import Lease


async def test_the_snapshot_says_why_and_for_how_long(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(3)
    one, two = await lease(pool, model="m"), await lease(pool, model="m")
    await pool.settle(one, refused(20_000))
    await pool.settle(two, INVALID)
    clock.tick(5_000)
    view = await pool.snapshot()
    assert [key.state for key in view.keys] == ["cooling", "disabled", "ready"]
    assert [key.reason for key in view.keys] == ["rate_limit", "invalid_key", ""]
    assert [key.left_ms for key in view.keys] == [15_000, None, 0]
    assert view.summary() == {
        "keys": 3, "ready": 1, "cooling": 1, "disabled": 1, "in_flight": 0, "calls": 2,
        "refused": 1,
    }  # fmt: skip
    assert view.as_json()["keys"][0]["blocks"][0]["name"] == "m"


async def test_no_secret_reaches_redis(make_pool: Make, redis: Redis) -> None:
    pool = make_pool(2)
    held = await lease(pool, model="m", resource="m", by="task")
    await pool.settle(held, refused(1_000))
    await pool.settle(await lease(pool, model="m"), INVALID)
    dump = b""
    raw = Redis.from_url(f"redis://127.0.0.1:{redis.connection_pool.connection_kwargs['port']}/0")
    async with raw:
        async for name in raw.scan_iter():
            dump += name + (await raw.dump(name) or b"")
    assert dump
    for key in pool.keys:
        assert key.secret.get_secret_value().encode() not in dump
        assert key.secret.get_secret_value()[12:40].encode() not in dump


async def test_scripts_and_state_may_be_flushed_at_any_time(make_pool: Make, redis: Redis) -> None:
    pool = make_pool(2)
    held = await lease(pool)
    await redis.script_flush()
    await redis.flushall()
    assert (await pool.settle(held, OK)).late
    assert (await lease(pool)).wait_ms == 0


async def test_what_rests_shows_and_resets_after_the_state_was_flushed(
    make_pool: Make, redis: Redis
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, model="m"), OK)
    await redis.flushall()
    await pool.settle(await lease(pool, model="m"), refused(60_000))
    assert (await pool.snapshot()).failed == 1
    assert (await pool.reset(by="test")).count == 1
    assert isinstance(await ask(pool, model="m"), Lease)


async def test_an_account_that_is_configured_later_takes_effect(make_pool: Make) -> None:
    pool = make_pool(2)
    await pool.settle(await lease(pool), OK)
    await pool.settle(await lease(pool), OK)
    assert (await lease(make_pool(2, accounts=["team", "team"]))).account == "team"


async def test_keys_may_be_replaced_while_the_pool_is_looked_at(
    make_pool: Make, new_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)
    ask = pool._scripts.snapshot

    async def meanwhile(**asked: Any) -> str:
        text = await ask(**asked)
        pool.replace_keys([new_key(number) for number in range(4)])
        return text

    monkeypatch.setattr(pool._scripts, "snapshot", meanwhile)
    assert len((await pool.snapshot()).keys) == 2
    assert len((await pool.snapshot()).keys) == 4


# What the version before kept of an account with 60 calls a minute (9 of them left), 5 a second (2
# of them went now) and 100 emails a day (89 of them left), and of a lease that was out.
FORMER_LIMITS = (
    "0303657064000000000000594000000000709994410000000000405640000000c585317a42000000000000f0"
    "3f000000c585317a4200003426f56b0cc3000000000000000000000000000000000372706d0000000000004e"
    "4000000000004ced400000000000002240000000c585317a42000000000000f03f000000c585317a42000034"
    "26f56b0cc3000000000000000000000000000000000372707300000000000014400000000000408f40000000"
    "0000001440000000c585317a42000000000000f03f000000c585317a4200003426f56b0cc300000000000000"
    "00000000000000000082a365706481a7656e64735f6d73cf000001a31bcc2260a372707382a36c6f6792cf00"
    "0001a3185c5000cf000001a3185c5000a46c65667491cf000001a3185c5000"
)
FORMER_LEASE = (
    "86a464696d73ac206570642072706d20727073a4636f737485ac696e7075745f746f6b656e7300ad6f757470"
    "75745f746f6b656e7300a6656d61696c7301a8726571756573747301a6746f6b656e7300a873746172745f6d"
    "73cf000001a3185c5000a36b6579ac643232356430303266396236a26279a0a46c656674c3"
)


async def test_what_the_version_before_kept_is_served(make_pool: Make, redis: Redis, clock) -> None:  # noqa: ANN001
    pool = make_pool(1, accounts=["org"])
    pair = pool.names.account_model("org", "m")
    await redis.hset(pair, mapping={"limits": bytes.fromhex(FORMER_LIMITS), "window": 4})
    await redis.hset(pool.names.leased, "abcd", bytes.fromhex(FORMER_LEASE))
    await redis.zadd(pool.names.leases, {"abcd": clock.ms + 1_000})
    await redis.zadd(pool.names.models, {"m": clock.ms})
    [key] = (await pool.snapshot()).keys
    assert [(one.dimension, one.limit, one.remaining) for one in key.buckets] == [
        ("epd", 100, 89),
        ("rpm", 60, 9),
        ("rps", 5, 3),
    ]
    clock.tick(2_000)
    for _ in range(5):
        await pool.settle(await lease(pool, model="m", emails=1), OK)
    assert (await ask(pool, model="m")).reason == "rps"
    [key] = (await pool.snapshot()).keys
    assert [one.remaining for one in key.buckets] == [84, 6, 0]
    assert key.in_flight == 0
    assert [entry["event"] for entry in await pool.audit()] == ["lease_expired"]
