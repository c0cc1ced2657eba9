"""The views of each key, by a snapshot of the pool and by a reset."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from config.api_key import make_key
from worker.keypool import BlockView, BucketView, KeyView, PoolView, resets
from worker.keypool.audit_trail import _with_labels
from worker.keypool.names import BlockedScope, Names
from worker.keypool.resets import HeldBlock, ResetDone
from worker.keypool.snapshot import parse

TAIL = "0123456789abcdefghijklmnopqrst"
ONE, TWO = (make_key("groq", secret=f"gsk_{n}{TAIL}", variable=f"KEY_{n}") for n in (1, 2))
NOW_MS = 1_000_000
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def snapshot(
    blocks: dict[str, dict[str, Any]] | None = None,
    records: Sequence[dict[str, Any]] = ({}, {}, {}, {}, {}, {}),
    *,
    models: tuple[str, ...] = ("m", "n"),
) -> PoolView:
    seen = {"now_ms": NOW_MS, "redis_ms": 3, "blocks": blocks or {}, "records": records}
    accounts = {ONE.id: "acme", TWO.id: TWO.id}
    return parse(seen, service="groq", keys=(ONE, TWO), accounts=accounts, models=models)


def block(until_ms: int = NOW_MS + 500, **fields: Any) -> dict[str, Any]:
    return {"until_ms": until_ms, "since_ms": 7, "reason": "why", "by": "job-1"} | fields


def test_each_key_has_its_own_record_and_those_of_its_account_with_each_model() -> None:
    counts = {"ok": "4", "refused": "3", "fault": "2", "rejected": "1", "tokens": "90"}
    of_key = counts | {"in_flight": "5", "used_ms": "6", "note": "keep"}
    rpm = {"limit": 30, "level": -1.5, "window_ms": MINUTE_MS}
    epd = {"limit": 100, "level": 7, "window_ms": DAY_MS, "ends_ms": NOW_MS + 9}
    rps = {"limit": 2, "level": 0, "window_ms": 1_000}
    rps["log"] = [NOW_MS - 1_000, NOW_MS - 999, NOW_MS + 5]  # the first call has left the window
    records = [of_key, {"buckets": {"rpm": rpm, "epd": epd}}, {"buckets": {"rps": rps}}, {}, {}, {}]
    view = snapshot(records=records)
    assert (view.service, view.now_ms, view.redis_ms) == ("groq", NOW_MS, 3)
    first, second = view.keys
    assert asdict(first) == {
        "id": ONE.id,
        "label": ONE.label,
        "variable": "KEY_1",
        "account": "acme",
        "state": "ready",
        "blocks": (),
        "in_flight": 5,
        "calls": 10,
        "accepted": 4,
        "refused": 3,
        "faults": 2,
        "rejected": 1,
        "tokens": 90,
        "used_ms": 6,
        "buckets": (
            asdict(BucketView("m", "epd", 100, 7.0, DAY_MS, full_in_ms=9)),
            asdict(BucketView("m", "rpm", 30, -1.5, MINUTE_MS)),
            asdict(BucketView("n", "rps", 2, 0.0, 1_000)),
        ),
        "note": "keep",
    }
    assert asdict(second) == asdict(first) | {
        "id": TWO.id,
        "label": TWO.label,
        "variable": "KEY_2",
        "account": TWO.id,
        "buckets": (),
        "note": "",
    } | dict.fromkeys(
        ("in_flight", "calls", "accepted", "refused", "faults", "rejected", "tokens", "used_ms"), 0
    )


NOT_MINE = {f"key:{TWO.id}": block(), "account:other": block(), f"unfit:{TWO.id}:m": block(-1)}


@pytest.mark.parametrize(
    ("field", "stored", "shown", "state"),
    [
        # scope, name, state, since_ms, left_ms, from_tokens, disabled_by; and the key's state
        (f"key:{ONE.id}", block(), ("key", "", "cooling", 500, 0, ""), "cooling"),
        (f"key:{ONE.id}", block(-1), ("key", "", "disabled", None, 0, ""), "disabled"),
        ("account:acme", block(-1), ("account", "", "disabled", None, 0, ""), "disabled"),
        ("account:acme", block(), ("account", "", "cooling", 500, 0, ""), "cooling"),
        (
            "account_model:acme:m",
            block(from_tokens=70),
            ("account_model", "m", "cooling", 500, 70, ""),
            "cooling",
        ),
        ("account_model:acme:x:y", block(-1), ("account_model", "x:y", "disabled", None, 0, ""),
            "cooling"),
        ("unfit:acme:m", block(), ("account_model", "m", "unfit", 500, 0, ""), "ready"),
        (f"key_resource:{ONE.id}:r", block(), ("key_resource", "r", "cooling", 500, 0, ""),
            "cooling"),
        # the domain of another team; the other domains serve as before
        (f"key_resource:{ONE.id}:r", block(-1), ("key_resource", "r", "disabled", None, 0, ""),
            "ready"),
        (f"key_resource:{ONE.id}:m", block(-1), ("key_resource", "m", "disabled", None, 0, ""),
            "cooling"),
        ("host", block(), ("host", "", "cooling", 500, 0, ""), "cooling"),
        ("model:m", block(), ("model", "m", "cooling", 500, 0, ""), "cooling"),
        (f"person:{ONE.id}", block(by="ann", words="lunch"),
            ("key", "", "disabled", 500, 0, "ann"), "disabled"),
        ("person:", block(-1, by="ann", words="lunch"), ("host", "", "disabled", None, 0, "ann"),
            "cooling"),
    ],
)  # fmt: skip
def test_a_block_is_shown_with_what_it_blocks_and_for_how_long(
    field: str, stored: dict[str, Any], shown: tuple[Any, ...], state: str
) -> None:
    scope, name, block_state, left_ms, from_tokens, disabled_by = shown
    key = snapshot(NOT_MINE | {field: stored}).keys[0]
    why = "lunch" if disabled_by else "why"
    view = BlockView(scope, name, block_state, why, 7, left_ms, from_tokens, disabled_by)
    assert (key.blocks, key.state) == ((view,), state)


def test_a_block_that_has_ended_is_not_shown() -> None:
    blocks = {f"key:{ONE.id}": block(NOW_MS), f"account:{TWO.id}": block(NOW_MS + 1)}
    first, second = snapshot(blocks).keys
    assert first.blocks == ()
    assert [each.left_ms for each in second.blocks] == [1]


def test_blocks_of_the_key_itself_come_first() -> None:
    fields = [
        f"person:{ONE.id}",
        f"key:{ONE.id}",
        "account:acme",
        f"key_resource:{ONE.id}:r",
        "account_model:acme:m",
        "account_model:acme:n",
        "host",
        "model:m",
        "unfit:acme:m",
    ]
    key = snapshot({field: block(reason=field) for field in reversed(fields)}).keys[0]
    assert [each.reason for each in key.blocks] == fields


KEY = snapshot().keys[0]
UNFIT = BlockView("account_model", "m", "unfit", "model_not_found", 0, 90_000)


def rest(left_ms: int | None, *, scope: str = "account_model", reason: str = "why") -> BlockView:
    return BlockView(scope, "m", "cooling", reason, 0, left_ms)


@pytest.mark.parametrize(
    ("blocks", "state", "reason", "left_ms"),
    [
        ((), "ready", "", 0),
        ((UNFIT,), "ready", "", 0),
        ((UNFIT,), "cooling", "", None),
        ((rest(5),), "ready", "", 0),  # of a from-domain, for example
        ((UNFIT, rest(5, reason="a")), "cooling", "a", 5),
        ((rest(5, reason="a"), rest(9, reason="b")), "cooling", "b", 9),
        ((rest(9, reason="b"), rest(5, reason="a")), "cooling", "b", 9),
        # an endless block of a model does not replace the rest of the key
        ((rest(None, reason="a"), rest(5, reason="b")), "cooling", "b", 5),
        ((rest(None, reason="a"),), "cooling", "a", None),
        *(
            ((rest(None, scope=scope, reason="a"), rest(5, reason="b")), "disabled", "a", None)
            for scope in ("key", "account", "host")
        ),
    ],
)
def test_a_key_that_does_not_serve_says_why_and_until_when(
    blocks: tuple[BlockView, ...], state: str, *, reason: str, left_ms: int | None
) -> None:
    key = replace(KEY, blocks=blocks, state=state)
    assert (key.reason, key.left_ms) == (reason, left_ms)


def counted(state: str, number: int, *blocks: BlockView) -> KeyView:
    counts = dict.fromkeys(("in_flight", "calls", "refused"), number)
    return replace(KEY, state=state, blocks=blocks, **counts)


def test_a_pool_is_summed_up_in_its_counts() -> None:
    states = ("ready", "ready", "ready", "cooling", "cooling", "disabled")
    keys = tuple(counted(state, 10**digit) for digit, state in enumerate(states))
    view = PoolView("groq", NOW_MS, keys)
    assert view.failed == 3
    summary = {"keys": 6, "ready": 3, "cooling": 2, "disabled": 1}
    summary |= dict.fromkeys(("in_flight", "calls", "refused"), 111_111)
    assert view.summary() == summary
    shown = view.as_json()
    assert (shown["service"], shown["now_ms"], shown["summary"]) == ("groq", NOW_MS, summary)
    assert [each["state"] for each in shown["keys"]] == list(states)
    assert shown["keys"][0] == asdict(keys[0]) | {"reason": "", "left_ms": 0}


@pytest.mark.parametrize(
    ("scope", "by", "paused"),
    [("host", "ann", True), ("host", "", False), ("key", "ann", False)],
)
def test_a_service_is_paused_if_a_person_stopped_all_of_it(
    scope: str, by: str, *, paused: bool
) -> None:
    stopped = replace(rest(None, scope=scope), disabled_by=by)
    assert PoolView("groq", 0, (KEY, counted("ready", 1, rest(5), stopped))).paused is paused


SCOPES = [
    # the field, and its text
    ("host", BlockedScope("host")),
    ("model:a:b", BlockedScope("model", resource="a:b")),
    ("key:k", BlockedScope("key", "k")),
    ("account:a", BlockedScope("account", "a")),
    ("person:k", BlockedScope("person", "k")),
    ("person:", BlockedScope("person")),
    ("key_resource:k:r:s", BlockedScope("key_resource", "k", "r:s")),
    ("account_model:a:m:n", BlockedScope("account_model", "a", "m:n")),
    ("account_model:a:", BlockedScope("account_model", "a")),
    ("unfit:a:m", BlockedScope("unfit", "a", "m")),
]


@pytest.mark.parametrize(("field", "scope"), SCOPES)
def test_a_scope_is_read_as_it_was_written(field: str, scope: BlockedScope) -> None:
    assert BlockedScope.parse(field) == scope
    assert str(scope) == field


def test_the_records_of_a_pool_share_a_hash_tag() -> None:
    names = Names("kw", "groq")
    assert names.root() == "{kw:groq}"
    record_names = {
        "account_model:a:m": names.account_model("a", "m"),
        "key:k": names.key("k"),
        "waiting:m bulk": names.waiting("m bulk"),
    } | {
        name: getattr(names, name)
        for name in (
            "margins", "leases", "leased", "inflight", "audit", "actions", "blocks", "models",
            "wake", "keys",
        )
    }  # fmt: skip
    assert record_names == {name: f"{{kw:groq}}:{name}" for name in record_names}


OWNERS = {ONE.id: ONE.label, TWO.id: TWO.label, "acme": "acme"}
# Redis' rows in the order of the result: the scope, 1 if it has no end, the reason, and the person.
ROWS: list[tuple[str, int, str, str]] = [
    ("host", 0, "down", "job-1"),
    ("model:m", 1, "gone", "job-1"),
    ("person:", 1, "holiday", "ann"),
    (f"key:{ONE.id}", 1, "invalid_key", "job-1"),
    (f"key_resource:{ONE.id}:r", 0, "rate_limit", "job-1"),
    (f"person:{ONE.id}", 0, "lunch", "ann"),
    ("account:acme", 1, "suspended", "job-1"),
    ("account_model:acme:m", 0, "rate_limit", "job-1"),
    ("unfit:acme:m", 0, "model_not_found", "job-1"),
]
HELD = [
    HeldBlock("host", "groq", "", "cooling", "down", ""),
    HeldBlock("model", "m", "", "disabled", "gone", ""),
    HeldBlock("host", "groq", "", "disabled", "holiday", "ann"),
    HeldBlock("key", ONE.label, ONE.id, "disabled", "invalid_key", ""),
    HeldBlock("key_resource", f"{ONE.label} × r", ONE.id, "cooling", "rate_limit", ""),
    HeldBlock("key", ONE.label, ONE.id, "disabled", "lunch", "ann"),
    HeldBlock("account", "acme", "", "disabled", "suspended", ""),
    HeldBlock("account_model", "acme × m", "", "cooling", "rate_limit", ""),
    HeldBlock("account_model", "acme × m", "", "unfit", "model_not_found", ""),
]


@pytest.mark.parametrize("with_disabled", [False, True])
def test_a_reset_says_what_it_brought_back_and_what_a_person_keeps_out(
    *, with_disabled: bool
) -> None:
    done = resets.parse(
        list(reversed(ROWS)), service="groq", owners=OWNERS, with_disabled=with_disabled
    )
    left = [] if with_disabled else [held for held in HELD if held.disabled_by]
    back = [held for held in HELD if held not in left]
    assert (list(done.brought_back), list(done.left_disabled)) == (back, left)
    assert done.count == len(back)
    assert resets.as_json({"groq": done, "resend": ResetDone()}) == {
        "reset": {"groq": len(back), "resend": 0},
        "brought_back": {"groq": [asdict(held) for held in back], "resend": []},
        "left_disabled": {"groq": [asdict(held) for held in left], "resend": []},
    }


@pytest.mark.parametrize(
    ("scope", "name", "shown"),
    [
        ("key", ONE.id, ONE.label),
        ("key", "of another process", "of another process"),
        ("account_model", "acme:a:b", "acme × a:b"),
        ("account_model", f"{TWO.id}:", TWO.label),
        ("model", "a:b", "a:b"),
    ],
)
def test_an_entry_of_the_audit_trail_names_keys_by_their_labels(
    scope: str, name: str, shown: str
) -> None:
    entry = {"scope": scope, "name": name, "by": "ann"}
    assert _with_labels(entry, [ONE, TWO]) == entry | {"name": shown}
