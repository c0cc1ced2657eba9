"""A job's history between its runs."""

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.attempts import Attempt
from worker.jobs import history as histories
from worker.jobs.history import HEADER, History, died_ms, doubt_ms, was_redelivered


def test_a_job_without_headers_begins_its_history_now() -> None:
    before = round(time.time() * 1000)
    history = History.of(None)
    assert before <= history.since_ms <= round(time.time() * 1000)
    assert (history.deferrals, history.attempts, history.waited_ms, history.deferred) == (
        0,
        0,
        0,
        False,
    )
    assert history.age_s < 60


def test_a_run_adds_to_the_history() -> None:
    history = (
        History(since_ms=1)
        .after(attempts=2, waited_ms=30)
        .after(attempts=1, waited_ms=5, deferred=True)
    )
    assert history == History(since_ms=1, deferrals=1, attempts=3, waited_ms=35, deferred=True)


def test_a_run_that_was_not_deferred_adds_no_deferral() -> None:
    history = History(since_ms=1, deferrals=1, deferred=True).after(attempts=1, waited_ms=0)
    assert (history.deferrals, history.deferred) == (1, False)


@pytest.mark.parametrize(
    ("since_ms", "age_s"), [(400_000, 600.0), (999_000, 1.0), (1_000_000, 0.0), (1_000_001, 0.0)]
)
def test_a_history_is_as_old_as_the_first_run(
    monkeypatch: pytest.MonkeyPatch, since_ms: int, age_s: float
) -> None:
    monkeypatch.setattr(histories, "time", SimpleNamespace(time=lambda: 1_000.0))
    assert History(since_ms).age_s == age_s
    history = History.of({HEADER: {"since_ms": since_ms}})
    assert history.since_ms == min(since_ms, 1_000_000), "a run cannot begin in the future"


# How long a job has waited by its message, when it was due, and the wait that counts at 1,000 s.
@pytest.mark.parametrize(
    ("waited_ms", "due_ms", "counts_ms"),
    [(500, 0, 500), (500, 1_000_000, 500), (500, 1_000_200, 300), (100, 1_000_200, 0)],
)
def test_a_job_that_comes_back_early_has_not_waited_until_then(
    monkeypatch: pytest.MonkeyPatch, waited_ms: int, due_ms: int, counts_ms: int
) -> None:
    monkeypatch.setattr(histories, "time", SimpleNamespace(time=lambda: 1_000.0))
    history = History.of({HEADER: {"since_ms": 1, "waited_ms": waited_ms, "due_ms": due_ms}})
    assert (history.waited_ms, history.due_ms) == (counts_ms, 0)


# The record of an older version, and whether the job was deferred then.
@pytest.mark.parametrize(("ticket", "deferred"), [("-", True), ("org_a", True), ("", False)])
def test_a_message_of_an_older_version_says_whether_its_job_was_deferred(
    ticket: str, *, deferred: bool
) -> None:
    assert (
        History.of({HEADER: {"since_ms": 1, "deferrals": 1, "ticket": ticket}}).deferred is deferred
    )


def test_the_header_survives_json() -> None:
    history = History(
        since_ms=1_000,
        deferrals=2,
        attempts=3,
        waited_ms=4,
        deferred=True,
        reason="tpm",
        in_doubt=True,
    )
    headers = json.loads(json.dumps({"other": 1, **history.headers()}))
    assert History.of(headers) == history


def test_the_trail_keeps_the_latest_calls() -> None:
    calls = tuple(
        Attempt(number, "gsk_abc123...", "rate_limit", in_doubt=number == 30)
        for number in range(31)
    )
    history = History(since_ms=1).after(attempts=25, waited_ms=0, trail=calls[:25])
    history = History.of(json.loads(json.dumps(history.headers()))).after(
        attempts=6, waited_ms=0, trail=calls[25:]
    )
    assert history.trail == calls[-20:]
    assert History.of(json.loads(json.dumps(history.headers()))) == history


@pytest.mark.parametrize(
    ("name", "written", "kept"),
    [
        ("attempts", 2**53, 2**53),  # the largest number that every JSON parser keeps
        ("attempts", 2**53 + 1, 0),
        ("reason", "x" * 201, "x" * 200),
        ("joined", "x" * 1_000, "x" * 1_000),
        ("joined", "x" * 1_001, ""),  # a part of an id is not an id
    ],
)
def test_values_of_a_header_have_bounds(name: str, written: Any, kept: Any) -> None:
    assert getattr(History.of({HEADER: {name: written}}), name) == kept


# Values that another program may write under our name.
@pytest.mark.parametrize(
    "header",
    [
        "text",  # not an object
        ["since_ms"],  # a list
        {"since_ms": "yesterday"},  # not a number
        {"since_ms": -1},  # before 1970
        {"since_ms": 10**30},  # in the future
        {"since_ms": True},  # a truth value is not a number
        {"since_ms": 1.5},  # a fraction is not a count
        {"deferrals": None, "attempts": [], "waited_ms": {}},  # nothing usable
        {"deferred": 7, "ticket": []},  # not booleans
        {"trail": "long ago"},  # not a list of calls
        {
            "trail": [
                None,
                [],
                {"at_ms": 1.5, "key": "k", "code": "c"},
                {"at_ms": 1, "key": 2, "code": "c"},
            ]
        },  # not calls
        {"unknown": 1},  # a field of another version
    ],
)
def test_a_strange_header_is_harmless(header: Any) -> None:
    history = History.of({HEADER: header})
    assert 0 <= history.age_s < 60
    assert history.headers()[HEADER]["deferrals"] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["since_ms", "deferrals", "attempts", "waited_ms", "deferred", "ticket", "trail", "else"]
)


@given(JSON | st.fixed_dictionaries({HEADER: JSON | st.dictionaries(FIELDS, JSON)}))
def test_any_header_gives_a_history_that_can_go_on(headers: Any) -> None:
    history = History.of(headers)
    assert history.age_s >= 0
    assert min(history.deferrals, history.attempts, history.waited_ms) >= 0
    after = history.after(attempts=1, waited_ms=1, deferred=True)
    assert History.of(json.loads(json.dumps(after.headers()))) == after


# The header, and its instant in milliseconds.
@pytest.mark.parametrize(
    ("died_s", "at_ms"),
    [
        (1_700_000_000.25, 1_700_000_000_250),
        (1_700_000_000, 1_700_000_000_000),
        (None, 0),
        (True, 0),
        ("1700000000", 0),
        (-5.0, 0),
        (float("nan"), 0),
        (float("inf"), 0),
        (1e300, 0),
    ],
)
def test_the_time_of_a_workers_death_is_read_or_is_zero(died_s: Any, at_ms: int) -> None:
    assert died_ms({"died_s": died_s}) == at_ms
    assert died_ms(died_s) == 0


# A message's delivery and headers, and whether a worker held it before.
@pytest.mark.parametrize(
    ("delivery", "headers", "again"),
    [
        (None, None, False),
        ({"redelivered": False}, {"keywheel": {}}, False),
        ({"redelivered": True}, None, True),
        ({}, {"deaths": 1}, True),
        ({}, {"died_s": 1_700_000_000.0}, False),  # it has had a turn since then
        ("x", ["y"], False),
    ],
)
def test_a_message_says_whether_a_worker_held_it_before(
    delivery: Any, headers: Any, again: Any
) -> None:
    assert was_redelivered(SimpleNamespace(delivery_info=delivery, headers=headers)) is again


def test_a_doubt_is_as_old_as_the_job_and_ends_with_the_next_run() -> None:
    doubtful = History(since_ms=7).after(attempts=0, waited_ms=0, in_doubt=True)
    assert doubt_ms(doubtful.headers()) == 7
    assert doubt_ms(doubtful.after(attempts=0, waited_ms=0).headers()) == 0
