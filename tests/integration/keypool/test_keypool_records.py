"""The pool's records in Redis, and what the pool shows of them."""

from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import INVALID, OK, Make, ask, lease, refused
from worker.keypool import Lease
from worker.verdicts import Dimension, ObservedLimit, Scope


async def test_the_snapshot_says_why_and_for_how_long(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(3)
    first, second = await lease(pool, model="m"), await lease(pool, model="m")
    await pool.settle(first, refused(20_000))
    await pool.settle(second, INVALID)
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
    refusal = refused(1_000, Scope.KEY, ObservedLimit(Dimension.RPM, 60))
    assert (await pool.settle(held, refusal)).late
    assert await redis.pttl(pool.names.account_model(held.account, "")) > 0, "unused state expires"
    assert (await lease(pool)).wait_ms == 0


async def test_a_rest_is_shown_and_reset_after_the_state_was_flushed(
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


async def test_keys_may_be_replaced_while_a_snapshot_is_read(
    make_pool: Make, new_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(2)
    ask = pool._scripts.snapshot

    async def meanwhile(**arguments: Any) -> str:
        text = await ask(**arguments)
        pool.replace_keys([new_key(number) for number in range(4)])
        return text

    monkeypatch.setattr(pool._scripts, "snapshot", meanwhile)
    assert len((await pool.snapshot()).keys) == 2
    assert len((await pool.snapshot()).keys) == 4


# An open lease of an earlier version.
FORMER_LEASE = (
    "86a464696d73ac206570642072706d20727073a4636f737485ac696e7075745f746f6b656e7300ad6f757470"
    "75745f746f6b656e7300a6656d61696c7301a8726571756573747301a6746f6b656e7300a873746172745f6d"
    "73cf000001a3185c5000a36b6579ac643232356430303266396236a26279a0a46c656674c3"
)


async def test_keys_that_a_person_disabled_with_an_earlier_version_stay_disabled(
    make_pool: Make,
    redis: Redis,
    clock: ManualClock,
) -> None:
    pool = make_pool(2, accounts=["org", "team"])
    gone, serves = pool.keys
    disabled = {"state": "disabled", "until_ms": -1, "reason": "leaked", "person": "ann"}
    await redis.hset(pool.names.key(gone.id), mapping=disabled)
    await redis.hset(pool.names.account_model("org", "m"), mapping={"limits": "x", "window": 4})
    await redis.hset(pool.names.leased, "abcd", bytes.fromhex(FORMER_LEASE))
    await redis.zadd(pool.names.leases, {"abcd": clock.ms + 1_000})
    clock.tick(2_000)
    assert {(await lease(pool, model="m")).key.id for _ in range(4)} == {serves.id}
    assert [key.reason for key in (await pool.snapshot()).keys] == ["leaked", ""]
    assert [key.in_flight for key in (await pool.snapshot()).keys] == [0, 4]
    assert (await pool.reset(by="bob")).left_disabled[0].disabled_by == "ann"
    await pool.reset(by="bob", key_id=gone.id)
    assert [key.state for key in (await make_pool(2).snapshot()).keys] == ["ready"] * 2
    events = [entry["event"] for entry in await pool.audit()]
    assert events == ["reset", "reset", "lease_expired", "disabled"]


async def test_an_account_that_an_answer_names_is_known_before_the_next_call(
    make_pool: Make,
) -> None:
    pool = make_pool(2)
    held = await lease(pool)
    for named in ("org_1", None, "org_2"):
        await pool.settle(held, replace(OK, account=named))
        assert pool.account_of(held.key) == (named or "org_1")


async def test_a_process_that_reads_a_snapshot_knows_the_accounts_before_its_first_call(
    make_pool: Make,
) -> None:
    for held in [await lease(pool := make_pool(2)), await lease(pool)]:
        await pool.settle(held, replace(OK, account="org_x"))
    await pool.settle(await lease(pool, model="m"), refused(60_000))
    fresh = make_pool(2)
    assert {key.account for key in (await fresh.snapshot()).keys} == {"org_x"}
    assert (await make_pool(2).reset(by="ann")).count == 1


async def test_the_calls_of_a_job_are_found_among_those_of_all_keys_in_their_order(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(2)
    first, second = pool.keys
    for key, other, job in ((second, first, "a"), (first, second, "b"), (first, second, "a")):
        clock.tick(10)
        exclude = frozenset({other.id})
        await pool.settle(await lease(pool, by=job, model="m", exclude=exclude), OK)
        assert (await pool.latest_calls(key.id))[0].job == job
    calls = await pool.calls_of_job("a")
    assert [(key.id, call.job, call.at_ms) for key, call in calls] == [
        (second.id, "a", clock.ms - 20),
        (first.id, "a", clock.ms),
    ]
    assert await pool.calls_of_job("c") == []
