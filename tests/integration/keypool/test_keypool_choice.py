"""Which of several keys with room is chosen, and how many keys are read for that."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import OK, Make, ask, lease, refused, rpm
from worker.keypool import KeyPool, Lease
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict

HOUR_MS = 3_600_000
TURNED_DOWN = Verdict(Fate.OTHER_ACCOUNT, "model_not_found", status=404)


async def with_left(pool: KeyPool, *left: float, limit: int = 60) -> dict[str, float]:
    """Leave the given number of requests to each account; return the accounts by name."""
    held = [
        await lease(pool, exclude=frozenset(others(pool, number))) for number in range(len(left))
    ]
    for held_lease, remaining in zip(held, left, strict=True):
        await pool.settle(held_lease, rpm(limit, remaining))
    return {held_lease.account: remaining for held_lease, remaining in zip(held, left, strict=True)}


def others(pool: KeyPool, chosen: int) -> list[str]:
    return [key.id for number, key in enumerate(pool.keys) if number != chosen]


# The number of keys, the requests left of 60 with each, and the keys that are read for a call.
@pytest.mark.parametrize(
    ("keys", "left", "looked_at"),
    [
        (2, 60, 2),
        (3, 60, 1),
        (3, 33, 1),  # more than half is left
        (3, 32, 2),  # the better of two is nearly as good as the best of all
        (5, 30, 2),
        (3, 0, 3),  # not at once: the first of all
    ],
)
async def test_of_many_keys_few_are_looked_at(
    make_pool: Make, redis: Redis, keys: int, left: float, looked_at: int
) -> None:
    pool = make_pool(keys)
    await with_left(pool, *[left] * keys)
    await redis.config_resetstat()
    await ask(pool)
    stats = await redis.info("commandstats")
    reads = stats["cmdstat_hmget"]["calls"]
    assert reads == 1 + 2 * looked_at  # the clock; each key and its account


# The requests left of 60 with the first account, and with the second.
@pytest.mark.parametrize(("left", "better"), [((20, 24), 24), ((24, 20), 24), ((60, 57), 60)])
async def test_of_two_accounts_the_fuller_one_is_taken(
    make_pool: Make, left: tuple[float, float], better: float
) -> None:
    pool = make_pool(2)
    left_of = await with_left(pool, *left)
    assert left_of[(await lease(pool)).account] == better


async def test_the_tightest_limit_of_an_account_says_how_full_it_is(make_pool: Make) -> None:
    pool = make_pool(2)
    held = [await lease(pool), await lease(pool)]
    await pool.settle(held[0], rpm(60, 40))
    tpm = ObservedLimit(Dimension.TPM, 6_000, 1_800)
    await pool.settle(held[1], replace(rpm(60, 60), limits=(*rpm(60, 60).limits, tpm)))
    assert (await lease(pool, tokens=1)).account == held[0].account


@pytest.mark.parametrize("known_first", [True, False])
@pytest.mark.parametrize(("left", "taken"), [(33, "known"), (27, "unknown")])
async def test_an_account_without_known_limits_counts_as_half_full(
    make_pool: Make, left: float, taken: str, *, known_first: bool
) -> None:
    pool = make_pool(2)
    first, second = await lease(pool), await lease(pool)
    known, unknown = (first, second) if known_first else (second, first)
    await pool.settle(known, rpm(60, left))
    await pool.settle(unknown, OK)
    accounts = {"known": known.account, "unknown": unknown.account}
    assert (await lease(pool)).account == accounts[taken]


async def test_jobs_wait_for_the_account_that_opens_first_even_if_another_is_fuller(
    make_pool: Make,
) -> None:
    pool = make_pool(2)
    later, sooner = await lease(pool), await lease(pool)
    await pool.settle(sooner, refused(1_000, Scope.ACCOUNT_MODEL, *rpm(60, 30).limits))
    await pool.settle(later, refused(1_001, Scope.ACCOUNT_MODEL, *rpm(60, 60).limits))
    taken = await lease(pool, ahead_ms=5_000)
    assert (taken.account, taken.wait_ms) == (sooner.account, 1_000)


@pytest.mark.parametrize("ends", ["an hour", "an answer"])
async def test_an_account_that_turned_a_request_down_comes_last_until_it_serves_one(
    make_pool: Make, clock: ManualClock, ends: str
) -> None:
    pool = make_pool(2)
    down, serves = await lease(pool), await lease(pool)
    await pool.settle(down, TURNED_DOWN)
    await pool.settle(serves, OK)
    clock.tick(HOUR_MS - 1)
    for _ in range(4):
        taken = await lease(pool)
        assert taken.account == serves.account
        await pool.settle(taken, OK)
    bound = await lease(pool, account=down.account)
    if ends == "an hour":
        clock.tick(1)
    else:
        await pool.settle(bound, OK)
    assert {(await lease(pool)).account for _ in range(4)} == {down.account, serves.account}


async def test_an_account_that_turned_a_request_down_serves_rather_than_nobody(
    make_pool: Make,
) -> None:
    pool = make_pool(2)
    down, rests = await lease(pool), await lease(pool)
    await pool.settle(down, TURNED_DOWN)
    await pool.settle(rests, refused(3_000))
    outcome = await ask(pool)
    assert isinstance(outcome, Lease)
    assert outcome.account == down.account
    assert (await lease(pool, ahead_ms=5_000)).account == rests.account, (
        "the job waits for this account for a while"
    )


async def test_of_equal_keys_the_one_that_served_longest_ago_is_taken(make_pool: Make) -> None:
    pool = make_pool(2)
    first, second = await lease(pool), await lease(pool)
    assert [first.key.id, second.key.id] == [key.id for key in pool.keys]
    await pool.settle(first, OK)
    await pool.settle(second, OK)
    assert (await lease(pool)).key.id == first.key.id


async def test_an_account_with_unknown_limits_is_not_preferred_to_one_that_serves(
    make_pool: Make,
) -> None:
    pool = make_pool(2)
    known = await lease(pool)
    await pool.settle(known, rpm(600, 500))
    taken = [(await lease(pool)).account for _ in range(300)]
    assert set(taken[:100]) == {known.account}
    assert set(taken) != {known.account}, (
        "the other account is tried before the known one is used up"
    )
