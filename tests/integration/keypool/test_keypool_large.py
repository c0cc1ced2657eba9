"""Jobs of many tokens among jobs of few."""

from dataclasses import replace

import pytest
from keypool_asking import Make, lease, nothing, refused

from worker.keypool import KeyPool, Lease, Want
from worker.keypool.leases import NO_TICKET, Why
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict

TPM = 6_000  # 100 tokens a second
SMALL, LARGE = 100, 4_000


def done(tokens: int, *limits: ObservedLimit) -> Verdict:
    return Verdict(fate=Fate.DONE, code="ok", status=200, tokens=tokens, limits=limits)


async def emptied(make_pool: Make) -> KeyPool:
    """A pool of one account whose tokens are used up, and whose jobs use a third of what they reserve."""
    pool = make_pool(1)
    pace = ObservedLimit(Dimension.RPM, 100_000)
    for number in range(60):
        tight = ObservedLimit(Dimension.TPM, TPM, 0) if number == 59 else ObservedLimit(Dimension.TPM, 10**7)
        await pool.settle(await lease(pool, tokens=300), done(100, tight, pace))
    return pool


class Crowd:
    """Small jobs that take whatever they can get: some come new, some come back."""

    def __init__(self, pool: KeyPool, clock, *, bulk: bool) -> None:  # noqa: ANN001
        self.pool, self.clock, self.bulk = pool, clock, bulk
        self.waiting: list[tuple[int, str]] = []
        self.served = 0

    async def tick(self) -> None:
        due = [ticket for at_ms, ticket in self.waiting if at_ms <= self.clock.ms]
        self.waiting = [one for one in self.waiting if one[0] > self.clock.ms]
        for ticket in due + [""] * min(2, 100 - len(self.waiting) - len(due)):
            got = await self.pool.acquire(Want(tokens=SMALL, ticket=ticket, max_wait_ms=1_000, bulk=self.bulk, by="s"))
            if isinstance(got, Lease):
                self.served += 1
                await self.pool.settle(got, done(SMALL))
            else:
                self.waiting.append((self.clock.ms + got.countdown_ms, got.ticket))


@pytest.mark.parametrize("bulk", [False, True])
async def test_small_jobs_pass_a_large_one_and_do_not_starve_it(make_pool: Make, clock, bulk: bool) -> None:  # noqa: ANN001, FBT001
    pool = await emptied(make_pool)
    crowd = Crowd(pool, clock, bulk=bulk)
    due_ms = ticket = None
    began_ms, passed = clock.ms, 0
    while True:
        assert clock.ms - began_ms < 200_000, "twice 40 s of refilling, and the line before it"
        clock.tick(500)
        await crowd.tick()
        if due_ms is None or clock.ms >= due_ms:
            want = Want(tokens=LARGE, ticket=ticket or "", max_wait_ms=1_000, bulk=bulk, by="large")
            got = await pool.acquire(want)
            if isinstance(got, Lease):
                break
            if due_ms is None:
                passed = crowd.served
            due_ms, ticket = clock.ms + got.countdown_ms, got.ticket
    assert crowd.served - passed > 20, "small ones went on meanwhile"
    before = crowd.served
    await pool.settle(got, done(LARGE))
    for _ in range(100):
        clock.tick(500)
        await crowd.tick()
    assert crowd.served - before > 30, "nothing is saved for it any more"


async def test_a_claim_whose_job_does_not_come_holds_nobody_up_for_long(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = await emptied(make_pool)
    first = await nothing(pool, tokens=LARGE, by="gone")
    clock.tick(first.countdown_ms)
    for _ in range(39):  # others with a ticket came a moment before it
        await lease(pool, tokens=SMALL, ticket=NO_TICKET)
    claimed = await nothing(pool, tokens=LARGE, by="gone", ticket=first.ticket)
    clock.tick(claimed.countdown_ms + 1)
    assert (await pool.snapshot()).keys[0].buckets[1].remaining > LARGE
    assert (await nothing(pool, tokens=2_500, by="other")).countdown_ms > 0, "it is saved for the one that claimed it"
    clock.tick(31_000)
    assert (await lease(pool, tokens=4_500, by="other")).wait_ms == 0


async def test_large_jobs_are_served_in_the_order_of_their_claims(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = await emptied(make_pool)
    tickets = {by: (await nothing(pool, tokens=LARGE, by=by)).ticket for by in "abc"}
    due = {by: (await nothing(pool, tokens=LARGE, by=by, ticket=ticket)).countdown_ms for by, ticket in tickets.items()}
    assert due["a"] < due["b"] < due["c"]
    served = []
    for _ in range(200):
        clock.tick(1_000)
        for by in set("cba") - set(served):
            got = await pool.acquire(Want(tokens=LARGE, by=by, ticket=tickets[by], max_wait_ms=1_000))
            if isinstance(got, Lease):
                served.append(by)
                await pool.settle(got, done(LARGE))
    assert served == ["a", "b", "c"]


def token_refusal(limit: int, *, used: int, requested: int, wait_ms: int) -> Verdict:
    told = ObservedLimit(Dimension.TPD, limit, limit - used)
    assert wait_ms == round((used + requested - limit) * 86_400_000 / limit)
    return replace(refused(wait_ms, Scope.ACCOUNT_MODEL, told), sized=True)


SIZED = token_refusal(100_000, used=97_000, requested=LARGE, wait_ms=864_000)


async def test_where_a_large_job_is_refused_for_its_tokens_small_ones_pass(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    before, large_before = await lease(pool, tokens=SMALL), await lease(pool, tokens=LARGE)
    settled = await pool.settle(await lease(pool, tokens=LARGE), SIZED)
    assert settled.blocked
    assert settled.newly
    [key] = (await pool.snapshot()).keys
    assert (key.state, key.blocks[0].from_tokens, key.left_ms) == ("cooling", LARGE, 864_000)
    # Who waited for its instant goes; who is as large as the refused one does not.
    assert await pool.confirm(before) is not None
    assert await pool.confirm(large_before) is None
    small = await lease(pool, tokens=SMALL)
    assert small.wait_ms == 0
    away = await nothing(pool, tokens=LARGE)
    assert (away.why, away.countdown_ms >= 864_000) == (Why.DEFERRED, True)
    # They take what is there and no more.
    passed = SMALL
    while isinstance(await pool.acquire(Want(tokens=SMALL, ticket=NO_TICKET)), Lease):
        passed += SMALL
    assert 2_800 <= passed <= 3_000


@pytest.mark.parametrize(
    "verdicts", [(SIZED, refused(60_000)), (refused(60_000), SIZED), (replace(SIZED, sized=False),)]
)
async def test_a_rest_for_all_holds_for_small_jobs_whatever_came_before_or_after(
    make_pool: Make, verdicts: tuple[Verdict, ...]
) -> None:
    pool = make_pool(1)
    held = [await lease(pool, tokens=LARGE) for _ in verdicts]
    for one, verdict in zip(held, verdicts, strict=True):
        await pool.settle(one, verdict)
    assert (await nothing(pool, tokens=SMALL)).why is Why.DEFERRED
    await pool.reset(by="ann")
    assert (await pool.snapshot()).keys[0].blocks == ()


async def test_a_rest_for_all_that_is_over_says_nothing_of_the_next(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool, tokens=LARGE), refused(1_000))
    clock.tick(1_001)
    await pool.settle(await lease(pool, tokens=LARGE), SIZED)
    assert (await lease(pool, tokens=SMALL)).wait_ms == 0


async def test_a_job_that_waits_for_the_tokens_of_the_day_is_passed_by_small_ones_and_not_starved(
    make_pool: Make,
    clock,  # noqa: ANN001
) -> None:
    pool = make_pool(1)
    rate = 100_000 / 86_400  # tokens a second
    await pool.settle(await lease(pool, tokens=LARGE), SIZED)
    clock.tick(1_000)
    away = await nothing(pool, tokens=LARGE, by="large")
    assert away.countdown_ms == pytest.approx(864_000 + (LARGE / 100) / rate * 1_000, rel=0.2)  # what it lacks
    began_ms, due_ms, ticket, passed, waiting = clock.ms, clock.ms + away.countdown_ms, away.ticket, 0, clock.ms
    while True:
        clock.tick(20_000)
        assert clock.ms - began_ms < 4 * away.countdown_ms
        while clock.ms >= waiting:  # small ones come new, one after the other
            got = await pool.acquire(Want(tokens=SMALL, by=f"small {passed}"))
            if isinstance(got, Lease):
                passed += SMALL
                await pool.settle(got, done(SMALL))
            else:
                waiting = clock.ms + got.countdown_ms
        if clock.ms >= due_ms:
            got = await pool.acquire(Want(tokens=LARGE, by="large", ticket=ticket))
            if isinstance(got, Lease):
                break
            due_ms, ticket = clock.ms + got.countdown_ms, got.ticket
    assert passed >= 1_500, "as much as it lacked at first, and half of what refilled"


async def test_a_late_refusal_that_has_no_lease_any_more_holds_for_all(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1, lease_ms=1_000)
    held = await lease(pool, tokens=LARGE)
    clock.tick(1_001)
    await lease(pool, tokens=SMALL)  # which ends what has expired
    await pool.settle(held, SIZED)
    assert (await nothing(pool, tokens=SMALL)).why is Why.DEFERRED
