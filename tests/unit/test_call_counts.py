"""The key, tenant and measures for which a call counts; and the calls of a run."""

from collections.abc import Mapping
from typing import Any

import pytest

from config.api_key import make_key
from worker import attempts
from worker.attempts import LONGEST, Attempt, latest
from worker.keypool import Lease, LeaseRequest
from worker.rotation.call_counter import CallCounter
from worker.usage import Series
from worker.verdicts import ABANDONED, RATE_LIMIT, Fate, Verdict

KEY = make_key("groq", secret="gsk_0123456789abcdefghijklmnopqrst", variable="GROQ_API_KEY")
OF_KEY, OF_ACME = Series("groq", KEY.id, "a", "m"), Series("groq", model="m", tenant="acme")
OK = Verdict(
    Fate.DONE, "ok", status=200, input_tokens=7, cached_tokens=2, output_tokens=5, tokens=14
)


class Counts:
    """A counter that notes the usage of a process and the charges of its tenants."""

    def __init__(self) -> None:
        self.usage: list[tuple[Series, dict[str, int]]] = []
        self.charges: list[tuple[str, int]] = []
        self.counter = CallCounter("groq", self, self)  # type: ignore[arg-type]

    def count(self, series: Series, **counts: int) -> None:
        self.usage.append((series, counts))

    def note(self, lease_request: LeaseRequest, tokens: int) -> None:
        self.charges.append((lease_request.tenant, tokens))


def counted(
    verdict: Verdict, *, recipients: Mapping[str, int] | None = None, **request: Any
) -> Counts:
    counts = Counts()
    lease = Lease("l", KEY, "a", LeaseRequest(**({"model": "m"} | request)), 0)
    counts.counter.call(lease, verdict, waited_ms=90, recipients=recipients or {})
    return counts


OF_OK = {"calls": 1, "prompt_tokens": 9, "cached_tokens": 2, "output_tokens": 5, "waited_ms": 90}


def test_a_call_counts_for_its_key_and_once_more_for_its_tenant() -> None:
    alone = counted(OK)
    assert (alone.usage, alone.charges) == ([(OF_KEY, OF_OK | {"emails": 0})], [])
    of_tenant = counted(OK, tenant="acme")
    assert of_tenant.usage == [(OF_KEY, OF_OK | {"emails": 0}), (OF_ACME, OF_OK | {"emails": 0})]
    assert of_tenant.charges == [("acme", 12)], "the tokens that the provider counts against limits"


@pytest.mark.parametrize(
    ("verdict", "measure"),
    [
        (Verdict(Fate.NEXT_KEY, RATE_LIMIT, status=429), "refused"),
        (Verdict(Fate.RETRY, "server_error", status=500), "faults"),
        (Verdict(Fate.FAIL, "bad_request", status=400), "rejected"),
    ],
)
def test_of_a_failed_call_only_the_failure_counts(verdict: Verdict, measure: str) -> None:
    failed = counted(verdict, tenant="acme", recipients={"acme": 3})
    counts = {"calls": 1, measure: 1, "emails": 0}
    assert failed.usage == [(OF_KEY, counts), (OF_ACME, counts)]
    assert failed.charges == []


def test_counts_that_a_provider_does_not_state_are_zero_and_an_account_that_it_names_is_used() -> (
    None
):
    counts_made = counted(Verdict(Fate.DONE, "ok", account="org_1"), model="x" * 300)
    series = Series("groq", KEY.id, "org_1", "x" * 200)
    nothing = dict.fromkeys(OF_OK, 0) | {"calls": 1, "waited_ms": 90, "emails": 0}
    assert counts_made.usage == [(series, nothing)]


def test_a_call_with_emails_of_several_tenants_counts_for_each_of_them() -> None:
    sent = counted(Verdict(Fate.DONE, "ok"), recipients={"acme": 3, "": 4, "b": 0}, tenant="acme")
    assert [
        (series.tenant, counts["calls"], counts["emails"]) for series, counts in sent.usage
    ] == [
        ("", 1, 7),
        ("acme", 1, 3),
        ("b", 1, 0),
    ]


def test_a_run_without_a_key_counts_as_a_deferral_unless_a_program_waits_in_place() -> None:
    counts = Counts()
    counts.counter.deferral(LeaseRequest("m"))
    assert counts.usage == []
    counts.counter.deferral(LeaseRequest("m" * 300, by="job-1", tenant="acme"))
    series = Series("groq", model="m" * 200)
    of_tenant = Series("groq", model="m" * 200, tenant="acme")
    assert counts.usage == [(series, {"deferrals": 1}), (of_tenant, {"deferrals": 1})]


def test_a_call_that_was_abandoned_cannot_be_counted() -> None:
    with pytest.raises(KeyError):
        counted(ABANDONED)


def call(number: int, *, in_doubt: bool = False) -> Attempt:
    return Attempt(number, "k", "c", in_doubt)


def test_of_many_calls_the_latest_are_remembered_and_the_first_that_is_in_doubt() -> None:
    calls = [call(number) for number in range(30)]
    assert latest(calls[:20]) == tuple(calls[:20])
    assert latest(calls) == tuple(calls[-LONGEST:])
    assert LONGEST == 20
    calls[3], calls[5] = call(3, in_doubt=True), call(5, in_doubt=True)
    assert latest(calls) == (calls[3], *calls[-19:])
    calls[3] = call(3)
    calls[5] = call(5)
    calls[12] = call(12, in_doubt=True)
    assert latest(calls) == tuple(calls[-LONGEST:]), "the first call in doubt is among them"


def test_the_calls_of_a_run_are_noted_within_it() -> None:
    attempts._run.set(None)
    outside = attempts.note("k", "c")
    assert (outside.key, outside.code, outside.in_doubt) == ("k", "c", False)
    assert attempts.of_this_run() == ()
    attempts.begin()
    inside = attempts.note("k", "c", in_doubt=True)
    attempts.note_again(outside)
    assert attempts.of_this_run() == (inside, outside)
    attempts.begin()
    assert attempts.of_this_run() == ()
    attempts._run.set(None)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"at_ms": 1, "key": "k", "code": "c"}, call(1)),
        ({"at_ms": 1, "key": "k", "code": "c", "in_doubt": True}, call(1, in_doubt=True)),
        ({"at_ms": 1, "key": "k", "code": "c", "in_doubt": 1}, call(1)),
        ({"at_ms": 1, "key": "k" * 65, "code": "c" * 65}, Attempt(1, "k" * 64, "c" * 64)),
        ({"at_ms": True, "key": "k", "code": "c"}, None),
        ({"at_ms": 1.0, "key": "k", "code": "c"}, None),
        ({"at_ms": 1, "key": None, "code": "c"}, None),
        ({"at_ms": 1, "key": "k"}, None),
        ([1, "k", "c"], None),
    ],
)
def test_a_call_is_read_only_as_it_was_written(value: Any, read: Attempt | None) -> None:
    assert Attempt.of(value) == read
    if read is not None:
        assert Attempt.of(read.as_json()) == read
