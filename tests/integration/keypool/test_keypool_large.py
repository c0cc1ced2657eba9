"""Jobs that need many tokens, among jobs that need few."""

from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import Make, ask, lease, no_lease, refused
from worker.keypool import KeyPool, Lease, Line, NoLeaseReason
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict

TPM = 6_000  # 100 tokens a second
SMALL, LARGE = 100, 4_000


def done(tokens: int, *limits: ObservedLimit) -> Verdict:
    return Verdict(fate=Fate.DONE, code="ok", status=200, tokens=tokens, limits=limits)


async def emptied(make_pool: Make, dimension: Dimension = Dimension.TPM) -> KeyPool:
    """A pool of one account without tokens left. Its jobs use a third of what they reserve.

    Only the last job uses everything that it reserves.
    """
    pool = make_pool(1)
    pace = ObservedLimit(Dimension.RPM, 100_000)
    for _ in range(59):
        wide = ObservedLimit(dimension, 10**7)
        await pool.settle(await lease(pool, tokens=300), done(100, wide, pace))
    await pool.settle(await lease(pool, tokens=300), done(300, ObservedLimit(dimension, TPM, 0)))
    return pool


class Crowd:
    """Small jobs that take all the tokens that they can get."""

    def __init__(self, pool: KeyPool, clock: ManualClock, *, bulk: bool = False) -> None:
        self.pool, self.clock, self.bulk = pool, clock, bulk
        self.served = 0

    async def tick(self) -> None:
        while isinstance(
            outcome := await ask(
                self.pool, tokens=SMALL, ahead_ms=2_000, bulk=self.bulk, by="small"
            ),
            Lease,
        ):
            self.served += 1
            await self.pool.settle(outcome, done(SMALL))


@pytest.mark.parametrize("bulk", [False, True])
async def test_small_jobs_pass_a_large_one_and_do_not_starve_it(
    make_pool: Make,
    clock: ManualClock,
    bulk: bool,  # noqa: FBT001
) -> None:
    pool = await emptied(make_pool)
    crowd, began_ms = Crowd(pool, clock, bulk=bulk), clock.ms
    while not isinstance(
        outcome := await ask(pool, tokens=LARGE, ahead_ms=2_000, bulk=bulk, by="large"), Lease
    ):
        assert clock.ms - began_ms < 90_000, "twice the 40 s that the refill takes"
        clock.tick(500)
        await crowd.tick()
    assert crowd.served > 20, "small jobs were served meanwhile"
    before = crowd.served
    await pool.settle(outcome, done(LARGE))
    for _ in range(100):
        clock.tick(500)
        await crowd.tick()
    assert crowd.served - before > 40, "no tokens are saved for the large job any more"


@pytest.mark.parametrize("shape", [{}, {"bulk": True}, {"tenant": "ann"}])
async def test_a_large_job_that_comes_after_small_ones_which_save_for_themselves_is_not_starved(
    make_pool: Make,
    clock: ManualClock,
    shape: dict[str, object],
) -> None:
    pool, served = await emptied(make_pool), 0

    async def serve_small() -> None:
        nonlocal served
        while isinstance(
            outcome := await ask(pool, tokens=SMALL, ahead_ms=2_000, by=f"small {served}", **shape),
            Lease,
        ):
            served += 1
            await pool.settle(outcome, done(SMALL))

    for _ in range(10):
        clock.tick(500)
        await serve_small()
    came_ms, before = clock.ms, served
    while not isinstance(
        await ask(
            pool,
            tokens=LARGE,
            ahead_ms=2_000,
            by="large",
            waited_ms=clock.ms - came_ms,
            **shape,
        ),
        Lease,
    ):
        assert clock.ms - came_ms < 90_000, "twice the 40 s that the refill takes"
        clock.tick(500)
        await serve_small()
    assert served - before > 20, "small jobs were served meanwhile"


async def test_saved_tokens_go_to_the_job_that_came_first_whichever_asked_first(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await emptied(make_pool)
    await no_lease(pool, tokens=LARGE, by="later")
    clock.tick(5_000)
    await no_lease(pool, tokens=2_000, by="earlier", waited_ms=60_000)
    clock.tick(16_000)  # 2,100 tokens by now
    await lease(pool, tokens=2_000, by="earlier", waited_ms=76_000)


async def test_tokens_are_saved_for_large_answers_too(make_pool: Make, clock: ManualClock) -> None:
    pool = await emptied(make_pool, Dimension.OTPM)
    first = await no_lease(pool, tokens=LARGE, output_tokens=LARGE, by="large")
    assert 39_000 <= first.first_in_ms <= 42_000
    clock.tick(20_000)
    await lease(pool, tokens=900, output_tokens=900, by="small")
    assert (await no_lease(pool, tokens=900, output_tokens=900, by="small")).first_in_ms > 0, (
        "the other tokens are saved"
    )


async def test_tokens_saved_for_a_job_that_does_not_come_delay_no_other_job_for_long(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await emptied(make_pool)
    first = await no_lease(pool, tokens=LARGE, by="gone")
    clock.tick(first.first_in_ms)
    assert (await no_lease(pool, tokens=2_500, by="other")).first_in_ms > 0, (
        "half of the tokens is saved for the job that came first"
    )
    clock.tick(31_000)
    assert (await lease(pool, tokens=4_500, by="other")).wait_ms == 0


@pytest.mark.parametrize("asks_on", [True, False])
async def test_a_job_in_line_saves_while_its_process_asks_and_a_few_seconds_longer(
    make_pool: Make,
    clock: ManualClock,
    asks_on: bool,  # noqa: FBT001
) -> None:
    pool = await emptied(make_pool)
    first, second = Line("any", "first"), Line("any", "second")
    await no_lease(pool, tokens=LARGE, by="large", line=first, ahead_ms=2_000)
    for _ in range(10):
        clock.tick(2_000)
        if asks_on:
            await no_lease(pool, tokens=LARGE, by="large", line=first, ahead_ms=2_000)
    outcome = await ask(pool, tokens=1_500, by="other", line=second)
    assert isinstance(outcome, Lease) is not asks_on, "half of the 2,000 refilled tokens is saved"


async def test_a_job_that_a_rest_sends_back_saves_no_tokens_of_a_minute(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await emptied(make_pool)
    before = await lease(pool, tokens=0)
    await pool.settle(before, refused(20_000))
    away = await no_lease(pool, tokens=LARGE, by="large", line=Line("any", "first"))
    assert away.why is NoLeaseReason.RESTING
    clock.tick(20_000)
    await lease(pool, tokens=1_500, by="other", line=Line("any", "second"))


async def test_large_jobs_are_served_in_the_order_of_their_coming(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await emptied(make_pool)
    served: list[str] = []
    for _ in range(260):
        for by in sorted(set("abc") - set(served)):
            outcome = await ask(pool, tokens=LARGE, by=by, ahead_ms=2_000)
            if isinstance(outcome, Lease):
                served.append(by)
                await pool.settle(outcome, done(LARGE))
        clock.tick(500)
    assert served == ["a", "b", "c"]


async def test_a_bulk_job_saves_nothing_that_an_interactive_one_would_not_get(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await emptied(make_pool)
    await no_lease(pool, tokens=LARGE, by="bulk", bulk=True)
    clock.tick(20_000)
    assert (await lease(pool, tokens=1_500, by="small")).wait_ms == 0


def token_refusal(limit: int, *, used: int, requested: int, wait_ms: int) -> Verdict:
    stated = ObservedLimit(Dimension.TPD, limit, limit - used)
    assert wait_ms == round((used + requested - limit) * 86_400_000 / limit)
    return replace(refused(wait_ms, Scope.ACCOUNT_MODEL, stated), sized=True)


SIZED = token_refusal(100_000, used=97_000, requested=LARGE, wait_ms=864_000)


async def test_if_a_large_job_is_refused_for_its_tokens_small_ones_pass(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    before, large_before = await lease(pool, tokens=SMALL), await lease(pool, tokens=LARGE)
    settled = await pool.settle(await lease(pool, tokens=LARGE), SIZED)
    assert settled.blocked
    assert settled.newly
    [key] = (await pool.snapshot()).keys
    assert (key.state, key.blocks[0].from_tokens, key.left_ms) == ("cooling", LARGE, 864_000)
    # A small job that waited for its instant starts; one as large as the refused job does not.
    assert await pool.confirm(before) is not None
    assert await pool.confirm(large_before) is None
    small = await lease(pool, tokens=SMALL)
    assert small.wait_ms == 0
    away = await no_lease(pool, tokens=LARGE)
    assert (away.why, away.first_in_ms >= 864_000) == (NoLeaseReason.RESTING, True)
    # They take the available tokens and no more.
    passed = SMALL
    while isinstance(await ask(pool, tokens=SMALL), Lease):
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
    for held_lease, verdict in zip(held, verdicts, strict=True):
        await pool.settle(held_lease, verdict)
    assert (await no_lease(pool, tokens=SMALL)).why is NoLeaseReason.RESTING
    await pool.reset(by="ann")
    assert (await pool.snapshot()).keys[0].blocks == ()


async def test_a_rest_for_all_that_is_over_says_nothing_of_the_next(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, tokens=LARGE), refused(1_000))
    clock.tick(1_001)
    await pool.settle(await lease(pool, tokens=LARGE), SIZED)
    assert (await lease(pool, tokens=SMALL)).wait_ms == 0


async def test_a_job_that_waits_for_the_tokens_of_the_day_is_passed_by_small_ones_and_not_starved(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    rate = 100_000 / 86_400  # tokens a second
    await pool.settle(await lease(pool, tokens=LARGE), SIZED)
    clock.tick(1_000)
    away = await no_lease(pool, tokens=LARGE, by="large")
    assert away.first_in_ms == pytest.approx(
        864_000 + (LARGE / 100) / rate * 1_000, rel=0.2
    )  # the missing tokens
    began_ms, due_ms, passed, waiting = clock.ms, clock.ms + away.first_in_ms, 0, clock.ms
    while True:
        clock.tick(20_000)
        assert clock.ms - began_ms < 4 * away.first_in_ms
        while clock.ms >= waiting:  # new small jobs come one after the other
            outcome = await ask(pool, tokens=SMALL, by=f"small {passed}")
            if isinstance(outcome, Lease):
                passed += SMALL
                await pool.settle(outcome, done(SMALL))
            else:
                waiting = clock.ms + outcome.first_in_ms
        if clock.ms >= due_ms:
            outcome = await ask(pool, tokens=LARGE, by="large")
            if isinstance(outcome, Lease):
                break
            due_ms = clock.ms + outcome.first_in_ms
    assert passed >= 1_500, "as many as the large job lacked at first, and half of the refill"


async def test_a_late_refusal_that_has_no_lease_any_more_holds_for_all(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, lease_ms=1_000)
    held = await lease(pool, tokens=LARGE)
    clock.tick(1_001)
    await lease(pool, tokens=SMALL)  # this ends expired leases
    await pool.settle(held, SIZED)
    assert (await no_lease(pool, tokens=SMALL)).why is NoLeaseReason.RESTING


async def test_saved_tokens_stay_saved_when_the_limit_changes(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await emptied(make_pool)
    other = await lease(pool, tokens=0)
    await no_lease(pool, tokens=LARGE, by="large")
    clock.tick(20_000)
    await pool.settle(other, done(0, ObservedLimit(Dimension.TPM, TPM + 60)))
    taken = 0
    while isinstance(await ask(pool, tokens=SMALL, by="small"), Lease):
        taken += SMALL
    assert 900 <= taken <= 1_000, "half of the refill"
