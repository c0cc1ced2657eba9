"""A host or a model fails: it rests, and a few calls probe it."""

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    INVALID,
    OK,
    Make,
    ask,
    fault,
    lease,
    no_lease,
    refused,
)
from worker.keypool import Lease
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import ABANDONED, Effect, Fate, Scope, Verdict

SERVER_ERROR = Verdict(
    fate=Fate.RETRY,
    code="server_error",
    effect=Effect.COOL,
    cooldown_ms=10,
    definite=False,
    status=500,
)


@pytest.mark.parametrize("scope", [Scope.HOST, Scope.MODEL])
async def test_a_host_or_model_that_keeps_failing_rests_and_is_tried_by_one(
    make_pool: Make,
    clock: ManualClock,
    scope: Scope,
) -> None:
    pool = make_pool(3)
    for _ in range(20):  # many calls that fail together are one failure
        assert not (await pool.settle(await lease(pool), fault(scope))).blocked
    clock.tick(1_000)
    assert (await pool.settle(await lease(pool), fault(scope))).blocked
    assert (await no_lease(pool)).reason == "connect_error"
    clock.tick(1_000)
    probe = await lease(pool)
    assert (await no_lease(pool)).why is NoLeaseReason.WAIT
    assert (await pool.settle(probe, fault(scope))).blocked
    assert (await no_lease(pool)).first_in_ms == 1_125, (
        "the rest is an eighth of the time of failures"
    )
    clock.tick(1_125)
    await pool.settle(await lease(pool), OK)
    for _ in range(5):
        assert (await lease(pool)).wait_ms == 0


async def test_a_probe_that_never_returns_lets_the_next_try(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(2)
    for _ in range(2):
        await pool.settle(await lease(pool), fault(Scope.HOST))
        clock.tick(1_000)
    probe = await lease(pool)
    assert (await no_lease(pool)).first_in_ms >= 250
    clock.tick(200)
    assert getattr(await pool.confirm(probe), "wait_ms", None) == 0, (
        "the probe does not wait for itself"
    )
    clock.tick(2_900)
    assert (await no_lease(pool)).first_in_ms <= 100, "the time of the probe is over then"
    clock.tick(100)
    assert (await lease(pool)).wait_ms == 0


async def test_a_lease_that_waits_for_the_probe_of_another_expires_unless_it_is_confirmed(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(2)
    held = [await lease(pool) for _ in range(2)]
    for _ in range(2):
        await pool.settle(await lease(pool), fault(Scope.HOST))
        clock.tick(1_000)
    await lease(pool)  # the probe
    waits = [
        after for after in [await pool.confirm(before) for before in held] if after is not None
    ]
    assert all(held_lease.wait_ms > 0 for held_lease in waits)
    clock.tick(waits[0].wait_ms)
    assert await pool.confirm(held[0]) is not None
    clock.tick(max(held_lease.wait_ms for held_lease in waits) + 1_500)
    await ask(pool)
    assert await pool.confirm(held[1]) is None


async def test_failures_of_one_second_count_once_also_if_a_call_passes_between_them(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(3)
    await pool.settle(await lease(pool), fault(Scope.HOST))
    clock.tick(100)
    await pool.settle(await lease(pool), OK)
    clock.tick(100)
    await pool.settle(await lease(pool), fault(Scope.HOST))
    clock.tick(1_000)
    assert not (await pool.settle(await lease(pool), fault(Scope.HOST))).blocked
    clock.tick(1_000)
    assert (await pool.settle(await lease(pool), fault(Scope.HOST))).blocked


@pytest.mark.parametrize("scope", [Scope.HOST, Scope.MODEL])
async def test_of_the_leases_that_wait_for_a_rested_host_or_model_one_probes_before_the_others(
    make_pool: Make,
    clock: ManualClock,
    scope: Scope,
) -> None:
    pool = make_pool(2)
    for _ in range(2):
        await pool.settle(await lease(pool), fault(scope))
        clock.tick(1_000)
    await pool.settle(await lease(pool), fault(scope))  # it now rests for two seconds
    crowd = [await lease(pool, ahead_ms=5_000) for _ in range(20)]
    clock.tick(max(held.wait_ms for held in crowd))

    async def confirmed(waiting: list[Lease]) -> list[Lease]:
        leases = [await pool.confirm(waiting_lease) for waiting_lease in waiting]
        assert all(held is not None and held.wait_ms < 1_000 for held in leases)
        return [held for held in leases if held is not None and held.wait_ms == 0]

    [probe] = await confirmed(crowd)
    others = [held for held in crowd if held.id != probe.id]
    assert await confirmed(others) == []
    late = await lease(pool, ahead_ms=5_000)
    assert 0 < late.wait_ms < 1_000, (
        "a later call waits only until the outcome of the probe is known"
    )
    await pool.settle(probe, OK)
    assert len(await confirmed([*others, late])) == 20


# What happens between two failures of the host, and whether it shows that the host works.
@pytest.mark.parametrize(
    ("between", "works"),
    [
        (OK, True),
        (INVALID, True),
        (refused(1), True),
        (
            Verdict(Fate.NEXT_KEY, "spend_limit", effect=Effect.COOL, cooldown_ms=1, status=400),
            True,
        ),
        (Verdict(Fate.FAIL, "rejected", status=400), True),
        (
            Verdict(
                Fate.RETRY,
                "server_error",
                effect=Effect.COOL,
                cooldown_ms=1,
                definite=False,
                status=500,
            ),
            False,
        ),
        (
            Verdict(Fate.RETRY, "edge_limited", scope=Scope.HOST, counted=False, status=429),
            False,
        ),  # a limit of no account
        (
            Verdict(Fate.NEXT_KEY, "unsendable_key", effect=Effect.DISABLE),
            False,
        ),  # no call was made
        (ABANDONED, False),
    ],
)
async def test_a_host_that_refuses_a_key_works(
    make_pool: Make,
    clock: ManualClock,
    between: Verdict,
    works: bool,  # noqa: FBT001
) -> None:
    pool = make_pool(3)
    held = [await lease(pool) for _ in range(3)]
    await pool.settle(held[0], fault(Scope.HOST))
    clock.tick(2_000)
    await pool.settle(held[1], between)
    clock.tick(2_000)
    assert (await pool.settle(held[2], fault(Scope.HOST))).blocked is not works


async def test_a_failure_while_others_pass_is_the_requests_own(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(3)
    failing, passing = await lease(pool, model="m"), await lease(pool, model="m")
    clock.tick(300)
    await pool.settle(passing, OK)
    assert (await pool.settle(failing, SERVER_ERROR)).passing
    clock.tick(1_000)
    alone = await lease(pool, model="m")
    await pool.settle(await lease(pool, model="other"), OK)
    assert not (await pool.settle(alone, SERVER_ERROR)).passing, (
        "neither earlier successes nor those of another model count"
    )


async def test_the_rest_is_an_eighth_of_the_outage_so_far_and_ten_seconds_at_most(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    """The time after its end in which the end is not known yet has the same length."""
    pool = make_pool(2)
    await pool.settle(await lease(pool), fault(Scope.HOST))
    began_ms = clock.ms
    clock.tick(1_000)
    while clock.ms - began_ms < 200_000:
        await pool.settle(await lease(pool), fault(Scope.HOST))
        rest_ms, failing_ms = (await no_lease(pool)).first_in_ms, clock.ms - began_ms
        assert rest_ms == pytest.approx(min(10_000, 875 + failing_ms / 8), abs=20)
        clock.tick(rest_ms)


async def test_jobs_wait_in_line_for_what_fails_for_a_moment_and_outside_for_an_outage(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    """In the line, they would keep jobs of other models from their keys."""
    pool = make_pool(2)
    whys = []
    for _ in range(9):
        await pool.settle(await lease(pool), fault(Scope.MODEL))
        clock.tick(500)
        outcome = await ask(pool)
        whys.append(outcome.why if not isinstance(outcome, Lease) else None)
        clock.tick(2_500)
    waits, rests = NoLeaseReason.WAIT, NoLeaseReason.RESTING
    assert whys == [None, *[waits] * 5, *[rests] * 3]


async def test_a_model_whose_calls_all_fail_rests_and_is_asked_rarely(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(10)
    calls = 0
    for _ in range(3_600):  # an hour
        clock.tick(1_000)
        while isinstance(outcome := await ask(pool, model="m"), Lease):
            calls += 1
            await pool.settle(outcome, SERVER_ERROR)
            assert calls < 500
    assert calls > 300, "the model is probed again and again"
    assert (await lease(pool, model="other")).wait_ms == 0
    clock.tick(10_000)
    await pool.settle(await lease(pool, model="m"), OK)
    assert [(await lease(pool, model="m")).wait_ms for _ in range(5)] == [0] * 5


# The beginning of a lease's id (which spreads the polls), how long the probe is in flight, and
# after how long the lease polls again.
@pytest.mark.parametrize(
    ("lease_id", "after_ms", "look_ms"),
    [
        ("0000", 0, 300),
        ("0001", 0, 301),
        ("012b", 0, 599),
        ("012c", 0, 300),
        ("012b", 2_500, 500),  # the next lease may probe by then
    ],
)
async def test_a_job_that_waits_for_the_probe_of_another_looks_again_after_300_to_600_ms(
    make_pool: Make,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    *,
    lease_id: str,
    after_ms: int,
    look_ms: int,
) -> None:
    pool = make_pool(2)
    for _ in range(2):
        await pool.settle(await lease(pool), fault(Scope.HOST))
        clock.tick(1_000)
    await lease(pool)  # the probe
    clock.tick(after_ms)
    monkeypatch.setattr("os.urandom", lambda size: bytes.fromhex(lease_id).ljust(size, b"\1"))
    assert (await no_lease(pool)).first_in_ms == look_ms


# The time from the first failure to the second, and whether the host rests.
@pytest.mark.parametrize(("apart_ms", "rests"), [(999, False), (1_000, True)])
async def test_two_failures_a_second_apart_are_two(
    make_pool: Make,
    clock: ManualClock,
    apart_ms: int,
    *,
    rests: bool,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), fault(Scope.HOST))
    assert (await pool.snapshot()).keys[0].state == "ready", "a single failure is not shown"
    clock.tick(apart_ms)
    assert (await pool.settle(await lease(pool), fault(Scope.HOST))).blocked is rests


async def test_a_failure_of_a_probe_that_came_too_late_lets_the_next_one_try_at_once(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(2)
    early = await lease(pool, model="m")
    for _ in range(2):
        await pool.settle(await lease(pool, model="m"), fault(Scope.MODEL))
        clock.tick(1_000)
    await lease(pool, model="m")  # the probe
    await no_lease(pool, model="m")
    await pool.settle(early, fault(Scope.MODEL), again=True)
    # Known already, so it does not count again.
    await pool.settle(early, fault(Scope.MODEL), again=True)
    clock.tick(1_125)
    await lease(pool, model="m")
