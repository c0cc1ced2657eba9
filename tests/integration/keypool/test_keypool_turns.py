"""Turns in the wait list: which lines may be served, and when each line asks again."""

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import Make, ask, lease, limited, no_lease, rpm
from worker.keypool import KeyPool, Lease, Line, NoLease

BEHIND = "earlier jobs come first"


def line(name: str | int, **standing: object) -> Line:
    return Line("m", f"line {name}", **standing)  # type: ignore[arg-type]


async def wait(pool: KeyPool, name: str | int, *, waited_ms: int = 5_000) -> NoLease:
    return await no_lease(pool, line=line(name), waited_ms=waited_ms)


# Calls a minute, keys, when the first lines ask again, and when the lines behind them do.
@pytest.mark.parametrize(
    ("limit", "keys", "front", "behind"),
    [
        # In half a second five calls have room, so these lines ask when it is their turn.
        (600, 1, [300, 400, 500, 600, 700], [250, 350]),
        # At least two are in front. In front nobody waits for more than 2 s, and behind for 4 s.
        (60, 1, [1_600, 2_000], [1_000, 2_000, 3_000, 4_000, 4_000]),
        (60, 2, [1_600, 2_000], [500, 1_000]),  # two keys have room twice as often
    ],
)
async def test_as_many_lines_are_in_front_as_find_room_within_half_a_second(
    make_pool: Make, limit: int, keys: int, front: list[int], behind: list[int]
) -> None:
    pool = await limited(make_pool, limit, count=keys)
    waits = [
        await wait(pool, number, waited_ms=5_000 - number) for number in range(len(front + behind))
    ]
    assert [no_lease.ask_in_ms for no_lease in waits] == front + behind
    assert [no_lease.reason for no_lease in waits] == ["rpm"] * len(front) + [BEHIND] * len(behind)


@pytest.mark.parametrize(("younger_ms", "passes"), [(1_000, True), (1_001, False)])
async def test_a_job_that_came_over_a_second_after_the_first_one_does_not_pass_it(
    make_pool: Make,
    younger_ms: int,
    *,
    passes: bool,
) -> None:
    pool = await limited(make_pool, 60)
    await wait(pool, "first")
    for _ in range(2):  # also when the line itself stands in the list
        second = await wait(pool, "second", waited_ms=5_000 - younger_ms)
        assert (second.reason, second.ask_in_ms) == (("rpm", 2_000) if passes else (BEHIND, 500))


async def test_a_line_that_is_a_second_late_is_out(make_pool: Make, clock: ManualClock) -> None:
    pool = await limited(make_pool, 60)
    late = await wait(pool, "first")
    await wait(pool, "second")
    clock.tick(late.ask_in_ms + 999)
    assert (await wait(pool, "third", waited_ms=4_900)).reason == BEHIND
    clock.tick(1)
    assert isinstance(await ask(pool, line=line("third"), waited_ms=4_900), Lease)


async def test_a_line_whose_next_job_is_not_asked_for_in_two_seconds_is_out(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await limited(make_pool, 600)
    clock.tick(300)
    first = line("first", next_waited_ms=4_000, entered=True)
    await lease(pool, line=first, waited_ms=5_000)
    clock.tick(1_999)
    assert (await wait(pool, "second", waited_ms=1_000)).reason == BEHIND
    clock.tick(1)
    assert isinstance(await ask(pool, line=line("second"), waited_ms=1_000), Lease)


async def test_bulk_waits_until_interactive_lines_are_a_second_late(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, bulk = make_pool(1), Line("m bulk", "one")
    await pool.settle(await lease(pool), rpm(600, 0))
    due_ms = (await wait(pool, "one")).ask_in_ms
    clock.tick(due_ms + 1_000)
    assert (await no_lease(pool, bulk=True, line=bulk)).reason == "interactive jobs come first"
    clock.tick(1)
    assert isinstance(await ask(pool, bulk=True, line=bulk), Lease)


# How far ahead a call may be reserved, and when a line without a lease asks again.
@pytest.mark.parametrize(("ahead_ms", "ask_in_ms"), [(2_000, 500), (800, 200)])
async def test_a_line_that_finds_no_room_within_the_horizon_asks_again_when_several_calls_fit(
    make_pool: Make, ahead_ms: int, ask_in_ms: int
) -> None:
    pool = await limited(make_pool, 600)
    while isinstance(outcome := await ask(pool, ahead_ms=ahead_ms, line=line("one")), Lease):
        pass
    assert outcome.ask_in_ms == ask_in_ms
    assert 0 < outcome.first_in_ms - ahead_ms <= 100
