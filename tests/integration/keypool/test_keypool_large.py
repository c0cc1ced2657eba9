"""Jobs of many tokens among jobs of few."""

import pytest
from keypool_asking import Make, lease, nothing

from worker.keypool import KeyPool, Lease, Want
from worker.keypool.leases import NO_TICKET
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict

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
