"""People's actions on single keys: disable for a time, enable, leave a note."""

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    INVALID,
    OK,
    Make,
    ask,
    lease,
    no_lease,
    refused,
)
from worker.keypool import BlockView, KeyPool, KeyView, Lease
from worker.keypool.by_hand import Disabled, Earlier
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import Scope, Verdict


async def key_of(pool: KeyPool) -> KeyView:
    return (await pool.snapshot()).keys[0]


def held(key: KeyView) -> list[tuple[str, str, int | None, str]]:
    def facts(block: BlockView) -> tuple[str, str, int | None, str]:
        return block.state, block.reason, block.left_ms, block.disabled_by

    return [facts(block) for block in key.blocks if block.scope == "key"]


async def test_a_key_that_is_disabled_for_a_time_comes_back_by_itself(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    in_flight = await lease(pool)
    key_id = pool.keys[0].id
    done = await pool.disable(key_id, by="cli ann", reason="quota for the launch", for_ms=60_000)
    assert done == Disabled(newly=True, left_ms=60_000, before=None)
    view = await key_of(pool)
    assert (view.state, view.left_ms, view.in_flight) == ("disabled", 60_000, 1)
    assert held(view) == [("disabled", "quota for the launch", 60_000, "cli ann")]
    assert (await no_lease(pool)).first_in_ms == 60_000
    assert (await pool.reset(by="bob")).left_disabled[0].state == "disabled", (
        "a person has disabled the key"
    )
    await pool.settle(in_flight, OK)
    assert (await key_of(pool)).in_flight == 0, "the key is drained"
    clock.tick(60_000)
    assert (await key_of(pool)).state == "ready"
    assert isinstance(await ask(pool), Lease)
    assert not (await pool.reset(by="bob")).left_disabled, "the time of the disabling is over"


async def test_the_end_of_a_disabling_can_be_changed_and_removed(make_pool: Make) -> None:
    pool = make_pool(1)
    key_id = pool.keys[0].id
    assert (await pool.disable(key_id, by="ann", reason="launch", for_ms=60_000)).newly
    changed = await pool.disable(key_id, by="bob", for_ms=9_000)
    assert changed == Disabled(
        newly=False, left_ms=9_000, before=Earlier(60_000, "ann", "launch")
    ), "the result names the setting that it replaced"
    assert (await key_of(pool)).left_ms == 9_000
    for_good = await pool.disable(key_id, by="ann")
    assert for_good == Disabled(newly=False, left_ms=None, before=Earlier(9_000, "bob", "by hand"))
    assert (await key_of(pool)).left_ms is None
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED


@pytest.mark.parametrize("of_all", [False, True], ids=["a key", "the service"])
async def test_a_time_does_not_bring_back_what_was_disabled_without_an_end(
    make_pool: Make, clock: ManualClock, *, of_all: bool
) -> None:
    pool = make_pool(1)
    which = None if of_all else pool.keys[0].id
    await pool.disable(which, by="cli ann", reason="leaked")
    shorter = await pool.disable(which, by="flower bob", reason="launch", for_ms=60_000)
    assert shorter == Disabled(newly=False, left_ms=None, before=Earlier(None, "cli ann", "leaked"))
    assert shorter.stays
    clock.tick(60_000)
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED
    assert [entry["by"] for entry in await pool.audit(people_only=True)] == ["cli ann"]
    await pool.enable(which, by="cli ann")
    assert (await pool.disable(which, by="flower bob", for_ms=60_000)).newly


# The provider's answer to a call in flight, and the key's block when the time is over.
@pytest.mark.parametrize(
    ("verdict", "block"),
    [
        (refused(90_000, Scope.KEY), ("cooling", "rate_limit", 30_000, "")),
        (INVALID, ("disabled", "invalid_key", None, "")),
    ],
)
async def test_a_refusal_while_a_key_is_disabled_by_hand_blocks_it_afterwards(
    make_pool: Make, clock: ManualClock, verdict: Verdict, block: tuple[object, ...]
) -> None:
    pool = make_pool(1)
    in_flight = await lease(pool)
    await pool.disable(pool.keys[0].id, by="ann", reason="moved", for_ms=60_000)
    await pool.settle(in_flight, verdict)
    assert held(await key_of(pool))[0] == ("disabled", "moved", 60_000, "ann")
    clock.tick(60_000)
    assert held(await key_of(pool)) == [block]


async def test_a_rest_after_a_disabling_has_ended_names_no_person(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.disable(pool.keys[0].id, by="ann", for_ms=60_000)
    clock.tick(60_000)
    await pool.settle(await lease(pool), refused(5_000, Scope.KEY))
    assert held(await key_of(pool)) == [("cooling", "rate_limit", 5_000, "")]


async def test_enable_undoes_what_a_person_did_and_nothing_else(make_pool: Make) -> None:
    pool = make_pool(2)
    by_hand, refused_key = pool.keys
    await pool.disable(by_hand.id, by="ann")
    await pool.settle(await lease(pool), INVALID)
    assert await pool.enable(by_hand.id, by="cli bob")
    assert not await pool.enable(by_hand.id, by="cli bob")
    assert not await pool.enable(refused_key.id, by="cli bob")
    assert [key.state for key in (await pool.snapshot()).keys] == ["ready", "disabled"]
    latest = (await pool.audit(people_only=True))[0]
    assert (latest["event"], latest["name"], latest["by"]) == ("enabled", by_hand.label, "cli bob")
    with pytest.raises(KeyError):
        await pool.enable("unknown", by="bob")


async def test_a_note_stays_until_it_is_removed(make_pool: Make) -> None:
    pool = make_pool(1)
    key_id = pool.keys[0].id
    await pool.note(key_id, "belongs to ops", by="ann")
    await pool.reset(by="ann", key_id=key_id)
    assert (await key_of(pool)).note == "belongs to ops"
    await pool.note(key_id, "", by="ann")
    assert (await key_of(pool)).note == ""
    assert [entry["event"] for entry in await pool.audit(people_only=True)] == [
        "noted",
        "reset",
        "noted",
    ]
    with pytest.raises(KeyError):
        await pool.note("unknown", "x", by="ann")


async def test_the_latest_calls_of_a_key_are_kept(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    key_id = pool.keys[0].id
    assert await pool.latest_calls(key_id) == []
    for number in range(10):
        clock.tick(1_000)
        verdict = refused(1) if number == 9 else OK
        await pool.settle(await lease(pool, by=f"job-{number}", model="m"), verdict)
    calls = await pool.latest_calls(key_id)
    assert [call.job for call in calls] == [f"job-{number}" for number in range(9, 1, -1)]
    assert (calls[0].code, calls[1].code) == ("rate_limit", "ok")
    assert (calls[0].at_ms, calls[0].model) == (clock.ms, "m")
    assert (await pool.snapshot()).keys[0].calls == 10
    with pytest.raises(KeyError):
        await pool.latest_calls("unknown")


async def test_a_paused_service_makes_no_call_until_it_is_resumed(
    make_pool: Make, redis: Redis
) -> None:
    pool = make_pool(2)
    in_flight, waits = await lease(pool), await lease(pool)
    assert (await pool.disable(None, by="cli ann", reason="they bill us twice")).newly
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED
    assert await pool.confirm(waits) is None, "a call that waited for its instant is refused, too"
    await pool.settle(in_flight, OK)
    blocks = [block for key in (await pool.snapshot()).keys for block in key.blocks]
    assert {(block.scope, block.state, block.disabled_by) for block in blocks} == {
        ("host", "disabled", "cli ann")
    }
    for key in (await pool.snapshot()).keys:
        assert (key.state, key.left_ms) == ("cooling", None)
        await pool.reset(by="ann", key_id=key.id)
    await pool.reset(by="ann", include_disabled=True)
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED, "a reset does not end a pause"
    async with redis.pubsub() as channel:
        await channel.subscribe(pool.names.wake)
        messages = channel.listen()
        assert (await anext(messages))["type"] == "subscribe"
        assert await pool.enable(None, by="cli bob")
        assert not await pool.enable(None, by="cli bob")
        assert (await anext(messages))["data"] == "reset", "waiting jobs ask again at once"
    assert isinstance(await ask(pool), Lease)
    entries = await pool.audit(people_only=True)
    assert [entry["event"] for entry in entries if entry["event"] != "reset"] == [
        "resumed",
        "paused",
    ]
    assert (entries[0]["scope"], entries[0]["name"]) == ("service", "groq")


async def test_a_pause_ends_by_itself_if_it_has_an_end(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    await pool.disable(None, by="ann", reason="launch", for_ms=60_000)
    away = await no_lease(pool)
    assert (away.first_in_ms, away.reason) == (60_000, "paused"), (
        "the reason is a code, whatever the note says"
    )
    assert (await key_of(pool)).left_ms == 60_000
    clock.tick(60_000)
    assert isinstance(await ask(pool), Lease)


async def test_disabling_by_hand_holds_until_reset(make_pool: Make) -> None:
    pool = make_pool(1)
    assert (await pool.disable(pool.keys[0].id, by="ann")).newly
    assert not (await pool.disable(pool.keys[0].id, by="ann")).newly
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED
    with pytest.raises(KeyError):
        await pool.disable("unknown", by="ann")


async def test_a_reset_leaves_out_what_a_person_disabled_and_returns_what_it_did(
    make_pool: Make,
) -> None:
    pool = make_pool(3, accounts=["team", "acme", "acme"])
    by_hand, refused_before, rests = pool.keys
    await pool.disable(by_hand.id, by="cli ann", reason="leaked")
    await pool.settle(await lease(pool, exclude=frozenset({rests.id})), INVALID)
    await pool.settle(await lease(pool, model="m"), refused(9_000))
    assert not (await pool.disable(refused_before.id, by="cli ann", reason="moved")).newly, (
        "the provider had already refused the key"
    )
    shown = {
        key.id: [block.disabled_by for block in key.blocks] for key in (await pool.snapshot()).keys
    }
    assert shown == {by_hand.id: ["cli ann"], refused_before.id: ["cli ann", ""], rests.id: [""]}

    done = await pool.reset(by="bob")
    assert [
        (block.scope, block.name, block.state, block.reason) for block in done.brought_back
    ] == [("account_model", "acme × m", "cooling", "rate_limit")]
    assert [(block.key, block.reason, block.disabled_by) for block in done.left_disabled] == [
        (by_hand.id, "leaked", "cli ann"),
        (refused_before.id, "moved", "cli ann"),
    ]
    newest = (await pool.audit(people_only=True))[0]
    assert [newest[name] for name in ("event", "scope", "name", "reason", "by")] == [
        "reset", "service", "groq", "1 cleared, 2 left disabled", "bob",
    ]  # fmt: skip
    for answer, options in (
        (by_hand, {"key_id": by_hand.id}),
        (refused_before, {"include_disabled": True}),
    ):
        done = await pool.reset(by="bob", **options)
        assert ([block.name for block in done.brought_back], done.left_disabled) == (
            [answer.label],
            (),
        )
    assert [key.state for key in (await pool.snapshot()).keys] == ["ready"] * 3
    entries = await pool.audit(people_only=True)
    assert [(entry["event"], entry["scope"], entry["name"]) for entry in entries] == [
        ("reset", "service", "groq"),
        ("reset", "key", by_hand.label),
        ("reset", "service", "groq"),
        ("disabled", "key", refused_before.label),
        ("disabled", "key", by_hand.label),
    ]


# The keys to enable, the key that is reset (-1: all), and the keys that are out afterwards.
@pytest.mark.parametrize(
    ("named", "of", "stays"),
    [
        ([0], -1, [1]),
        ([], -1, [0, 1]),
        ([0, 1], -1, []),
        ([], 0, [0, 1]),
        ([0], 0, [1]),
        ([1], 0, [0, 1]),  # this reset does not cover it
    ],
)
async def test_a_reset_enables_exactly_the_keys_that_it_names(
    make_pool: Make, named: list[int], of: int, stays: list[int]
) -> None:
    pool = make_pool(3)
    for key in pool.keys[:2]:
        await pool.disable(key.id, by="cli ann", reason="leaked")
    done = await pool.reset(
        by="bob",
        key_id=None if of < 0 else pool.keys[of].id,
        include_disabled=[pool.keys[number].id for number in named],
    )
    views = (await pool.snapshot()).keys
    assert [view.state == "disabled" for view in views] == [number in stays for number in range(3)]
    touched = {0, 1} if of < 0 else {of}
    assert {block.key for block in done.brought_back} == {
        pool.keys[number].id for number in touched.difference(stays)
    }
    assert {block.key for block in done.left_disabled} == {
        pool.keys[number].id for number in touched.intersection(stays)
    }
