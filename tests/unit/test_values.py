"""The values that the parts of the program pass to each other are immutable."""

import re
from dataclasses import asdict, is_dataclass
from typing import Any

import pytest

from config.api_key import make_key
from config.environment import Lookup
from tests.pages import ROOT
from worker.keypool import (
    BlockView,
    BucketView,
    CooldownPolicy,
    Lease,
    LeaseRequest,
    Line,
    NoLease,
    NoLeaseReason,
    PoolView,
    Settled,
)
from worker.keypool.forecast import CallCost, Estimate
from worker.keypool.names import BlockedScope
from worker.keypool.resets import ResetDone
from worker.quotes.quote import QuoteRequest
from worker.verdicts import Dimension, Fate, ObservedLimit, Reply, SeenQuota, Verdict

WORKING = {
    # objects that change while they work
    "Answer of a stream": "worker/streams/answer.py _Answer",
    "a batch": "worker/emails/batching.py BatchQueue",
    "an email": "worker/emails/outgoing.py OutgoingEmail",
    "what runs share": "worker/emails/run.py SharedState",
    "outcomes of quotes": "worker/keypool/margins.py _Spread",
    "a call": "worker/providers/exchange.py Exchange",
    "a call to Resend": "worker/providers/resend/http.py Exchange",
    "a job that waits": "worker/rotation/wait_queue.py Waiter",
    "jobs that wait": "worker/rotation/wait_queue.py WaitQueue",
    "what a user of Redis may do": "worker/startup/redis_rights.py Rights",
    "the age of deferred jobs": "worker/dashboard/deferred_age.py DeferredAge",
    "the age of jobs": "worker/dashboard/queue_age.py QueueAge",
    "the queues": "worker/dashboard/queues.py QueueWatch",
}
CLASS_RE = re.compile(r"^@dataclass(.*)\n(?:@.*\n)*class (\w+)", re.MULTILINE)


def test_a_value_cannot_be_changed_after_it_was_made() -> None:
    open_ = {
        f"{path.relative_to(ROOT)} {name}"
        for folder in ("config", "worker", "tasks")
        for path in (ROOT / folder).rglob("*.py")
        for options, name in CLASS_RE.findall(path.read_text(encoding="utf-8"))
        if "frozen=True" not in options
    }
    assert open_ == set(WORKING.values())


KEY = make_key("groq", secret="gsk_0123456789abcdefghijklmnopqrst", variable="GROQ_API_KEY")
NOTHING: dict[str, Any] = {
    # a request without conditions
    "model": "",
    "resource": "",
    "fallbacks": (),
    "tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "flexible": False,
    "emails": 0,
    "exclude": frozenset(),
    "exclude_accounts": frozenset(),
    "account": "",
    "by": "",
    "suspect": False,
    "bulk": False,
    "waited_ms": 0,
    "tenant": "",
    "queue": "",
}
LEAST: list[tuple[Any, dict[str, Any]]] = [
    (LeaseRequest(), NOTHING),
    (
        Lease("l", KEY, "a", LeaseRequest(), 5),
        {"id": "l", "account": "a", "request": NOTHING, "wait_ms": 5}
        | {"spare_emails": None, "capped": False},  # no quota is known, and no cap is needed
    ),
    (Line("w", "l"), {"wait_list": "w", "id": "l", "next_waited_ms": None, "entered": False}),
    (
        NoLease(NoLeaseReason.UNFIT),
        {"why": "unfit", "ask_in_ms": 0, "first_in_ms": 0, "reason": "", "limit": 0}
        | {"dimension": None},
    ),
    (
        Settled(late=False, blocked=False, newly=False),
        {"late": False, "blocked": False, "newly": False, "passing": False, "alone": False}
        | {"learned": ()},
    ),
    (
        Verdict(Fate.FAIL, "c"),
        {
            "fate": "fail",
            "code": "c",
            "reason": "",
            "effect": "none",
            "scope": "key",
            "cooldown": "limit",
            "cooldown_ms": None,
            "sized": False,
            "definite": True,
            "counted": None,
            "backoff_ms": None,
            "most_repeats": None,
            "account": None,
            "limits": (),
            "quotas": (),
            "too_large_limit": None,
            "too_large_in": None,
            "tokens": None,
            "input_tokens": None,
            "cached_tokens": None,
            "output_tokens": None,
            "service_tier": None,
            "emails": None,
            "status": 0,
            "certain": True,
        },
    ),
    (
        ObservedLimit(Dimension.RPM, 1),
        {"dimension": "rpm", "limit": 1, "remaining": None, "window_ms": None},
    ),
    (SeenQuota(Dimension.RPM, 1), {"dimension": "rpm", "used": 1, "spent": False}),
    (CallCost(), {"model": "", "tokens": 0, "input_tokens": 0, "output_tokens": 0, "emails": 0}),
    (
        CooldownPolicy(),
        {"limit_ms": 60_000, "server_error_ms": 5_000}
        | {"hourly_probe_ms": 3_600_000, "daily_probe_ms": 86_400_000},
    ),
    (PoolView("groq", 5, ()), {"service": "groq", "now_ms": 5, "keys": (), "redis_ms": 0}),
    (
        BucketView("m", "rpm", 60, 9, 60_000),
        {"model": "m", "dimension": "rpm", "limit": 60, "remaining": 9, "window_ms": 60_000}
        | {"full_in_ms": None},  # it refills continuously
    ),
    (
        BlockView("key", "", "cooling", "c", 7, None),
        {"scope": "key", "name": "", "state": "cooling", "reason": "c", "since_ms": 7}
        | {"left_ms": None, "from_tokens": 0, "disabled_by": ""},
    ),
    (Estimate(1.0), {"in_s": 1.0, "limited_by": ""}),
    (BlockedScope("host"), {"kind": "host", "owner": "", "resource": ""}),
    (ResetDone(), {"brought_back": (), "left_disabled": ()}),
    (QuoteRequest("groq"), {"service": "groq", "model": None, "jobs": 1, "tokens": None}),
    (Lookup(None, "V"), {"value": None, "variable": "V", "problem": None, "note": None}),
]


@pytest.mark.parametrize(("value", "fields"), LEAST, ids=lambda stated: type(stated).__name__)
def test_fields_that_are_left_out_are_empty_or_unknown(value: Any, fields: dict[str, Any]) -> None:
    assert is_dataclass(value)
    assert {name: stated for name, stated in asdict(value).items() if name != "key"} == fields  # type: ignore[arg-type]


def test_a_value_from_the_environment_is_not_shown_with_its_variable() -> None:
    assert "hunter2" not in repr(Lookup("hunter2", "V"))


def test_an_answer_is_not_shown_with_its_verdict() -> None:
    assert "hello" not in repr(Reply(Verdict(Fate.DONE, "ok"), {"text": "hello"}))


@pytest.mark.parametrize(
    ("dimension", "window_ms", "counts_tokens"),
    [
        ("rps", 1_000, False),
        ("rpm", 60_000, False),
        ("rpd", 86_400_000, False),
        ("tpm", 60_000, True),
        ("tpd", 86_400_000, True),
        ("itpm", 60_000, True),
        ("otpm", 60_000, True),
        ("epd", 86_400_000, False),
        ("epmo", 30 * 86_400_000, False),
    ],
)
def test_each_limit_counts_over_its_window(
    dimension: str,
    window_ms: int,
    *,
    counts_tokens: bool,
) -> None:
    assert Dimension(dimension).window_ms == window_ms
    assert Dimension(dimension).counts_tokens is counts_tokens
