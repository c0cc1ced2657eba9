"""The key pool's scripts against a real Redis, on a clock moved by hand."""

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from worker.keypool import KeyPool, Lease, Unavailable, Want
from worker.keypool.leases import NO_TICKET, Why
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

Make = Callable[..., KeyPool]
OK = Verdict(fate=Fate.DONE, code="ok", status=200)
INVALID = Verdict(fate=Fate.NEXT_KEY, code="invalid_key", effect=Effect.DISABLE, status=401)


def refused(
    cooldown_ms: int | None = None,
    scope: Scope = Scope.ACCOUNT_MODEL,
    *limits: ObservedLimit,
    account: str | None = None,
) -> Verdict:
    return Verdict(
        fate=Fate.NEXT_KEY,
        code="rate_limit",
        effect=Effect.COOL,
        scope=scope,
        cooldown_ms=cooldown_ms,
        status=429,
        limits=limits,
        account=account,
    )


def rpm(limit: int, remaining: float | None = None) -> Verdict:
    return Verdict(fate=Fate.DONE, code="ok", status=200, limits=(ObservedLimit(Dimension.RPM, limit, remaining),))


async def lease(pool: KeyPool, **want: object) -> Lease:
    got = await pool.acquire(Want(**want))  # type: ignore[arg-type]
    assert isinstance(got, Lease), got
    return got


async def nothing(pool: KeyPool, **want: object) -> Unavailable:
    got = await pool.acquire(Want(**want))  # type: ignore[arg-type]
    assert isinstance(got, Unavailable), got
    return got


async def test_use_is_balanced_over_equal_keys(make_pool: Make) -> None:
    pool = make_pool(4)
    used: Counter[str] = Counter()
    for _ in range(40):
        taken = await lease(pool)
        used[taken.key.id] += 1
        await pool.settle(taken, OK)
    assert set(used.values()) == {10}


async def test_a_refused_key_rests_and_the_next_serves_at_once(make_pool: Make, clock: Callable[[], int]) -> None:
    pool = make_pool(2)
    first = await lease(pool)
    settled = await pool.settle(first, refused(7_000))
    assert settled.blocked
    assert settled.newly
    for _ in range(3):
        other = await lease(pool)
        assert other.key.id != first.key.id
        assert other.wait_ms == 0


async def test_a_refusal_that_says_nothing_rests_for_the_default(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused())
    assert 60_000 <= (await nothing(pool)).countdown_ms < 61_000


async def test_an_exhausted_pool_names_the_moment_at_which_the_first_key_returns(make_pool: Make) -> None:
    pool = make_pool(2)
    await pool.settle(await lease(pool), refused(20_000))
    await pool.settle(await lease(pool), refused(30_000))
    away = await nothing(pool)
    assert away.why is Why.DEFERRED
    assert away.reason == "rate_limit"
    assert 20_000 <= away.countdown_ms < 21_000


async def test_a_cooled_key_returns_by_itself(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(20_000))
    clock.tick(19_999)
    assert (await nothing(pool)).countdown_ms >= 1
    clock.tick(1)
    assert (await lease(pool)).wait_ms == 0


async def test_a_cooldown_only_grows(make_pool: Make) -> None:
    pool = make_pool(1)
    one, two = await lease(pool), await lease(pool)
    await pool.settle(one, refused(20_000))
    again = await pool.settle(two, refused(1_000))
    assert not again.newly
    assert (await nothing(pool)).countdown_ms >= 20_000


async def test_a_short_rest_is_waited_for_in_the_process(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(3_000))
    waiting = await lease(pool, max_wait_ms=5_000)
    assert waiting.wait_ms == 3_000
    clock.tick(3_000)
    assert await pool.confirm(waiting)


async def test_a_lease_whose_key_was_refused_meanwhile_is_taken_back(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    early = await lease(pool)
    await pool.settle(await lease(pool), refused(1_000))
    waiting = await lease(pool, max_wait_ms=5_000)
    await pool.settle(early, refused(9_000))
    clock.tick(1_000)
    left = (await pool.snapshot()).keys[0].buckets[0].remaining
    assert not await pool.confirm(waiting)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(min(60, left + 1), abs=0.1)
    assert not await pool.confirm(waiting), "it has ended"


async def test_an_invalid_key_stays_out_until_it_is_reset(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), INVALID)
    clock.tick(40 * 86_400_000)
    assert (await nothing(pool)).why is Why.DISABLED
    assert await pool.reset(by="test") == 1
    assert (await lease(pool)).wait_ms == 0


async def test_a_cooldown_does_not_bring_a_disabled_key_back(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    one, two = await lease(pool), await lease(pool)
    await pool.settle(one, INVALID)
    await pool.settle(two, refused(1_000, Scope.KEY))
    clock.tick(2_000)
    assert (await nothing(pool)).why is Why.DISABLED


async def test_reset_of_one_key_leaves_the_others(make_pool: Make) -> None:
    pool = make_pool(2)
    await pool.settle(await lease(pool), INVALID)
    await pool.settle(await lease(pool), INVALID)
    assert await pool.reset(by="test", key_id=pool.keys[1].id) == 1
    assert (await lease(pool)).key.id == pool.keys[1].id
    with pytest.raises(KeyError):
        await pool.reset(by="test", key_id="unknown")


@pytest.mark.parametrize(
    ("scope", "same_model_serves", "other_model_serves"),
    [
        (Scope.KEY, True, True),  # the other key serves both
        (Scope.KEY_TOPIC, True, True),
        (Scope.ACCOUNT, False, False),  # both keys belong to one account
        (Scope.ACCOUNT_MODEL, False, True),
        (Scope.MODEL, False, True),
        (Scope.HOST, False, False),
    ],
)
async def test_a_rest_covers_its_scope_and_no_more(
    make_pool: Make,
    scope: Scope,
    same_model_serves: bool,  # noqa: FBT001
    other_model_serves: bool,  # noqa: FBT001
) -> None:
    pool = make_pool(2, accounts=["org_a", "org_a"])
    first = await lease(pool, model="big", topic="big")
    await pool.settle(first, refused(10_000, scope))
    for model, serves in (("big", same_model_serves), ("small", other_model_serves)):
        for _ in range(2):
            got = await pool.acquire(Want(model=model, topic=model))
            assert isinstance(got, Lease) is serves, (model, got)
            blamed_key = scope is Scope.KEY or (scope is Scope.KEY_TOPIC and model == "big")
            if isinstance(got, Lease):
                assert not blamed_key or got.key.id != first.key.id
    assert (await pool.snapshot()).failed == (1 if scope in {Scope.KEY, Scope.KEY_TOPIC} else 2)
    assert await pool.reset(by="test") >= 1
    assert (await pool.snapshot()).failed == 0


async def test_a_learned_bucket_is_never_overdrawn_and_refills_continuously(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 10))
    at_once = 0
    while isinstance(await pool.acquire(Want(ticket=NO_TICKET)), Lease):
        at_once += 1
    assert 9 <= at_once <= 10
    clock.tick(10_000)
    later = 0
    while isinstance(await pool.acquire(Want(ticket=NO_TICKET)), Lease):
        later += 1
    assert 9 <= later <= 10


async def test_each_waiter_has_an_instant_of_its_own(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    waits = [(await lease(pool, max_wait_ms=5_000)).wait_ms for _ in range(20)]
    assert [later - sooner for sooner, later in pairwise(waits)] == [100] * 19


async def test_the_deferred_are_spread_over_the_capacity_that_will_be_there(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    while isinstance(await pool.acquire(Want(max_wait_ms=1_000)), Lease):
        pass
    countdowns = [(await nothing(pool, max_wait_ms=1_000)).countdown_ms for _ in range(100)]
    steps = [later - sooner for sooner, later in pairwise(countdowns[1:])]
    assert all(94 <= step <= 96 for step in steps), "a little closer than the 100 ms that a call is worth"


async def test_who_comes_new_does_not_pass_the_deferred(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    for _ in range(50):
        await nothing(pool)
    clock.tick(2_000)
    assert (await nothing(pool, max_wait_ms=1_000)).why is Why.DEFERRED
    assert (await lease(pool, ticket=NO_TICKET, max_wait_ms=1_000)).wait_ms == 0


async def test_a_redeemed_ticket_makes_room_for_who_comes_new(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    deferred = [await nothing(pool) for _ in range(40)]
    clock.tick(deferred[-1].countdown_ms)
    for one in deferred:
        await lease(pool, ticket=one.ticket, max_wait_ms=1_000)
    clock.tick(1_000)
    assert (await lease(pool)).wait_ms == 0


async def test_tickets_that_are_not_redeemed_hold_nobody_up_for_long(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    last = [await nothing(pool) for _ in range(1_000)][-1]
    clock.tick(last.countdown_ms + 30_001)
    assert (await lease(pool)).wait_ms == 0


def fault(scope: Scope) -> Verdict:
    return Verdict(fate=Fate.RETRY, code="connect_error", scope=scope)


@pytest.mark.parametrize("scope", [Scope.HOST, Scope.MODEL])
async def test_a_host_or_model_that_keeps_failing_rests_and_is_tried_by_one(
    make_pool: Make,
    clock,  # noqa: ANN001
    scope: Scope,
) -> None:
    pool = make_pool(3)
    for _ in range(20):  # a crowd that fails together is one fault
        assert not (await pool.settle(await lease(pool), fault(scope))).blocked
    clock.tick(1_000)
    assert (await pool.settle(await lease(pool), fault(scope))).blocked
    assert (await nothing(pool)).reason == "connect_error"
    clock.tick(1_000)
    probe = await lease(pool)
    assert (await nothing(pool)).why is Why.DEFERRED
    assert (await pool.settle(probe, fault(scope))).blocked
    assert (await nothing(pool)).countdown_ms >= 2_000, "each failure in a row doubles the rest"
    clock.tick(2_000)
    await pool.settle(await lease(pool), OK)
    for _ in range(5):
        assert (await lease(pool)).wait_ms == 0


async def test_a_probe_that_never_returns_lets_the_next_try(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(2)
    for _ in range(2):
        await pool.settle(await lease(pool), fault(Scope.HOST))
        clock.tick(1_000)
    await lease(pool)
    assert (await nothing(pool)).countdown_ms >= 3_000
    clock.tick(3_000)
    assert (await lease(pool)).wait_ms == 0


async def test_a_window_takes_its_limit_and_no_more_wherever_it_starts(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    limits = (ObservedLimit(Dimension.RPS, 5, 4),)
    await pool.settle(await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits))
    clock.tick(1_100)
    starts = [(await lease(pool, max_wait_ms=60_000)).wait_ms for _ in range(50)]
    assert starts[:5] == [0] * 5
    for first, sixth in zip(starts, starts[5:], strict=False):
        assert sixth - first > 1_000
    assert starts[-1] <= 9 * 1_030


async def test_a_refusal_against_the_model_lowers_the_pace(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    early = await lease(pool)
    await pool.settle(await lease(pool), rpm(600, 500))
    await pool.settle(early, refused(0, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0)))
    assert "pace" not in " ".join(entry["reason"] for entry in await pool.audit()), "it left before the limit was known"
    clock.tick(50_000)
    crowd = [await lease(pool) for _ in range(20)]
    for held in crowd:  # refused together, it counts once
        await pool.settle(held, refused(100, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0)))
    assert [entry["reason"] for entry in await pool.audit()].count("rpm at 98 % of its pace") == 1
    clock.tick(10_000)
    passed = 0
    while isinstance(await pool.acquire(Want()), Lease):
        passed += 1
    assert 94 <= passed <= 98, "98 of the 100 that the limit would refill, less the margin"


async def test_tokens_are_charged_as_estimated_and_put_right_when_known(make_pool: Make) -> None:
    pool = make_pool(1)
    tpm = (ObservedLimit(Dimension.TPM, 6_000, 6_000),)
    await pool.settle(
        await lease(pool, tokens=100), Verdict(fate=Fate.DONE, code="ok", status=200, limits=tpm, tokens=100)
    )
    taken = await lease(pool, tokens=4_000)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(2_000, abs=1)
    assert isinstance(await pool.acquire(Want(tokens=4_000)), Unavailable)
    await pool.settle(taken, Verdict(fate=Fate.DONE, code="ok", status=200, tokens=500))
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(5_500, abs=1)


async def test_promises_are_spaced_by_what_jobs_use_not_by_what_they_reserve(make_pool: Make) -> None:
    pool = make_pool(1)
    ample, tight = (ObservedLimit(Dimension.TPM, 10**7),), (ObservedLimit(Dimension.TPM, 60_000, 0),)
    pace = ObservedLimit(Dimension.RPM, 100_000)
    for number in range(150):  # half of what is reserved is used
        limits = (*(tight if number == 149 else ample), pace)
        used_half = Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits, tokens=500)
        await pool.settle(await lease(pool, tokens=1_000), used_half)
    first, *_, last = [await nothing(pool, tokens=1_000) for _ in range(11)]
    assert last.countdown_ms - first.countdown_ms == pytest.approx(10 * 475, abs=30)


async def test_a_request_above_every_limit_fails_at_once_with_the_limit_named(make_pool: Make) -> None:
    pool = make_pool(1)
    tpm = (ObservedLimit(Dimension.TPM, 6_000),)
    await pool.settle(await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=tpm))
    too_large = await nothing(pool, tokens=6_001)
    assert (too_large.why, too_large.limit) == (Why.TOO_LARGE, 6_000)


async def test_a_stated_limit_of_nothing_is_not_planned_by(make_pool: Make) -> None:
    pool = make_pool(1)
    none = (ObservedLimit(Dimension.TPM, 0, 0),)
    await pool.settle(await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=none))
    assert (await lease(pool, tokens=10)).wait_ms == 0


async def test_a_refused_call_costs_the_bucket_nothing(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    before = (await pool.snapshot()).keys[0].buckets[0].remaining
    await pool.settle(await lease(pool), INVALID)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(before, abs=0.01)


async def test_keys_that_name_one_organisation_share_its_limits_from_then_on(make_pool: Make) -> None:
    pool, other = make_pool(2), make_pool(2)
    one = await lease(pool)
    two = await lease(pool)
    assert one.account != two.account
    full = ObservedLimit(Dimension.RPM, 30, 0)
    await pool.settle(one, refused(5_000, Scope.ACCOUNT_MODEL, full, account="org_x"))
    await pool.settle(two, refused(5_000, Scope.ACCOUNT_MODEL, full, account="org_x"))
    assert {key.account for key in (await pool.snapshot()).keys} == {"org_x"}
    # Another process, which has not heard of it, is put right by its next call.
    assert (await nothing(other)).why is Why.DEFERRED
    assert {other.account_of(key) for key in other.keys} == {"org_x"}
    assert [entry["event"] for entry in await pool.audit()].count("account_learned") == 2


async def test_the_lease_of_a_dead_worker_comes_back(make_pool: Make, clock, redis: Redis) -> None:  # noqa: ANN001
    pool = make_pool(1, lease_ms=30_000)
    dead = await lease(pool)
    clock.tick(30_001)
    assert (await lease(pool)).id != dead.id
    assert "lease_expired" in [entry["event"] for entry in await pool.audit()]
    assert await redis.hlen(pool.names.leased) == 1


async def test_a_late_settle_changes_no_count_but_teaches(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1, lease_ms=1_000)
    await pool.settle(await lease(pool), rpm(60, 60))
    late = await lease(pool)
    clock.tick(1_001)
    await pool.settle(await lease(pool), OK)
    flying = (await pool.snapshot()).keys[0].in_flight
    settled = await pool.settle(late, refused(5_000))
    assert settled.late
    assert settled.blocked
    assert (await pool.snapshot()).keys[0].in_flight == flying == 0


async def test_settling_twice_gives_back_once(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    held = await lease(pool)
    await pool.settle(held, INVALID)
    await pool.reset(by="test")
    after = (await pool.snapshot()).keys[0].buckets[0].remaining
    await pool.settle(held, INVALID)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(after, abs=0.01)


async def at_once(pool: KeyPool) -> list[Lease]:
    taken = []
    while isinstance(got := await pool.acquire(Want()), Lease):
        taken.append(got)
    assert got.why is Why.BUSY
    return taken


async def test_unknown_limits_open_by_a_share_of_what_has_passed(make_pool: Make) -> None:
    pool = make_pool(1, opening=2)
    sizes = []
    while sum(sizes) < 600:
        batch = await at_once(pool)
        sizes.append(len(batch))
        for held in batch:
            await pool.settle(held, OK)
    assert sizes[0] == 2
    assert 10 <= sizes[-1] <= 12, "what a limit of 600 would refuse together is 2 % of what it let through"


async def test_a_call_that_would_have_been_refused_by_now_makes_room_while_limits_are_unknown(
    make_pool: Make,
    clock,  # noqa: ANN001
) -> None:
    pool = make_pool(1, opening=3)
    assert len(await at_once(pool)) == 3
    away = await nothing(pool)
    assert away.why is Why.BUSY
    assert 250 <= away.countdown_ms < 310
    clock.tick(250)  # also where the worker that made the calls was killed
    assert len(await at_once(pool)) == 3


async def test_a_request_that_alone_exceeds_its_limit_lowers_no_pace(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 500))
    tpm = ObservedLimit(Dimension.TPM, 6_000, 5_000)
    never_fits = Verdict(
        fate=Fate.OTHER_ACCOUNT, code="request_too_large", status=429, limits=(tpm,), too_large_limit=6_000
    )
    crowd = [await lease(pool, tokens=9_000) for _ in range(2)]
    for held in crowd:
        assert not (await pool.settle(held, never_fits)).blocked
    assert "pace" not in " ".join(entry["reason"] for entry in await pool.audit())


async def test_nobody_queues_at_a_known_account_while_one_of_unknown_limits_will_be_asked_again(
    make_pool: Make,
) -> None:
    pool = make_pool(2, opening=1)
    first, second = await lease(pool), await lease(pool)
    known = ObservedLimit(Dimension.RPM, 30, 0)
    await pool.settle(first, refused(20_000, Scope.ACCOUNT_MODEL, known))
    assert (await nothing(pool, max_wait_ms=2_000)).why is Why.BUSY
    await pool.settle(second, refused(10_000, Scope.ACCOUNT_MODEL, known))
    assert (await nothing(pool, max_wait_ms=2_000)).why is Why.DEFERRED


async def test_jobs_that_come_without_a_promise_line_up_at_every_account(make_pool: Make) -> None:
    pool = make_pool(3)
    for rest_ms in (10_000, 11_000, 12_000):  # one of them always opens first
        taken = await lease(pool)
        await pool.settle(taken, refused(rest_ms, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0)))
    lines: Counter[str] = Counter()
    for _ in range(30):
        away = await nothing(pool, ticket=NO_TICKET, max_wait_ms=2_000)
        lines[away.ticket] += 1
        last_ms = away.countdown_ms
    assert len(lines) == 3
    assert min(lines.values()) > 7
    assert last_ms < 25_000


async def test_an_account_that_rests_is_not_asked_again_soon_because_of_calls_in_flight(make_pool: Make) -> None:
    pool = make_pool(1, opening=2)
    first, _ = await lease(pool), await lease(pool)
    await pool.settle(first, refused(20_000))
    away = await nothing(pool, max_wait_ms=2_000)
    assert away.why is Why.DEFERRED
    assert away.countdown_ms >= 20_000


async def test_an_email_stays_with_its_account_until_it_surely_was_not_sent(make_pool: Make) -> None:
    pool = make_pool(3)
    first = await lease(pool, pin="job-1")
    again = await lease(pool, pin="job-1")  # a redelivery while the first call's outcome is open
    assert again.account == first.account
    assert again.pinned
    ambiguous = Verdict(fate=Fate.SAME_ACCOUNT, code="read_timeout", definite=False)
    await pool.settle(again, ambiguous)
    await pool.settle(first, refused(60_000))
    # The first call was surely refused, but the second may have been accepted meanwhile: the account stays.
    waiting = await nothing(pool, pin="job-1")
    assert waiting.why is Why.DEFERRED
    assert isinstance(await pool.acquire(Want(pin="job-2")), Lease)


async def test_an_email_moves_on_after_a_definite_refusal(make_pool: Make) -> None:
    pool = make_pool(2)
    first = await lease(pool, pin="job-1")
    await pool.settle(first, refused(60_000))
    second = await lease(pool, pin="job-1")
    assert second.account != first.account
    assert not second.pinned


async def test_an_email_whose_account_has_no_key_any_more_is_not_sent_elsewhere(make_pool: Make) -> None:
    pool = make_pool(2)
    first = await lease(pool, pin="job-1")
    pool.replace_keys([key for key in pool.keys if key.id != first.key.id])
    assert (await nothing(pool, pin="job-1")).why is Why.GONE


async def test_an_email_is_not_tried_again_when_its_idempotency_key_may_be_forgotten(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    first = await lease(pool, pin="job-1")
    await pool.settle(first, Verdict(fate=Fate.SAME_ACCOUNT, code="reset", definite=False))
    clock.tick(23 * 3_600_000 + 1)
    assert (await nothing(pool, pin="job-1")).why is Why.STALE


async def test_a_topic_that_every_key_is_unfit_for_is_told_from_disabled_keys(make_pool: Make) -> None:
    pool = make_pool(2)
    unfit = Verdict(
        fate=Fate.NEXT_KEY, code="domain_not_verified", effect=Effect.DISABLE, scope=Scope.KEY_TOPIC, status=403
    )
    for _ in range(2):
        await pool.settle(await lease(pool, topic="a.example"), unfit)
    away = await nothing(pool, topic="a.example")
    assert (away.why, away.reason) == (Why.UNFIT, "domain_not_verified")
    await pool.settle(await lease(pool, topic="b.example"), INVALID)
    await pool.settle(await lease(pool, topic="c.example"), unfit)
    assert (await nothing(pool, topic="c.example")).why is Why.DISABLED


async def test_excluded_keys_and_accounts_are_not_offered(make_pool: Make) -> None:
    pool = make_pool(2)
    ids = [key.id for key in pool.keys]
    for _ in range(3):
        assert (await lease(pool, exclude=frozenset(ids[:1]))).key.id == ids[1]
        assert (await lease(pool, exclude_accounts=frozenset(ids[1:]))).key.id == ids[0]
    assert (await nothing(pool, exclude=frozenset(ids))).why is Why.NO_KEYS


async def test_disabling_by_hand_holds_until_reset(make_pool: Make) -> None:
    pool = make_pool(1)
    assert await pool.disable(pool.keys[0].id, by="ann")
    assert not await pool.disable(pool.keys[0].id, by="ann")
    assert (await nothing(pool)).why is Why.DISABLED
    with pytest.raises(KeyError):
        await pool.disable("unknown", by="ann")


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
        "keys": 3, "ready": 1, "cooling": 1, "disabled": 1, "in_flight": 0, "calls": 2, "refused": 1,
    }  # fmt: skip
    assert view.as_json()["keys"][0]["blocks"][0]["name"] == "m"


async def test_no_secret_reaches_redis(make_pool: Make, redis: Redis) -> None:
    pool = make_pool(2)
    held = await lease(pool, pin="job", model="m", topic="m", by="task")
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


async def test_what_rests_shows_and_resets_after_the_state_was_flushed(make_pool: Make, redis: Redis) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, model="m"), OK)
    await redis.flushall()
    await pool.settle(await lease(pool, model="m"), refused(60_000))
    assert (await pool.snapshot()).failed == 1
    assert await pool.reset(by="test") == 1
    assert isinstance(await pool.acquire(Want(model="m")), Lease)


@pytest.mark.parametrize("verdict", [OK, Verdict(fate=Fate.SAME_ACCOUNT, code="read_timeout", definite=False)])
async def test_an_email_stays_with_its_account_although_its_pin_was_flushed(
    make_pool: Make, redis: Redis, verdict: Verdict
) -> None:
    pool = make_pool(3)
    first = await lease(pool, pin="job-1")
    await redis.flushall()
    await pool.settle(first, verdict)
    again = await lease(pool, pin="job-1")
    assert (again.account, again.pinned) == (first.account, True)
    assert await redis.pttl(pool.names.pin("job-1")) > 0


async def test_an_account_that_is_configured_later_takes_effect(make_pool: Make) -> None:
    pool = make_pool(2)
    await pool.settle(await lease(pool), OK)
    await pool.settle(await lease(pool), OK)
    assert (await lease(make_pool(2, accounts=["team", "team"]))).account == "team"


async def test_two_hundred_at_once_take_exactly_what_is_there(make_pool: Make) -> None:
    pool, other = make_pool(1), make_pool(1)
    await pool.settle(await lease(pool), rpm(6_000, 75))
    got = await asyncio.gather(*((pool if n % 2 else other).acquire(Want(ticket=NO_TICKET)) for n in range(200)))
    assert 73 <= sum(isinstance(one, Lease) for one in got) <= 75
