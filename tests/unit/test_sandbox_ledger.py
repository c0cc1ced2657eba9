"""The counts of the sandbox's ledger, and the calls that it judges as violations."""

from typing import Any

import pytest

from sandbox.accounts import Key, Organisation, Team, make_key
from sandbox.call import Call
from sandbox.ledger import Ledger

_ORG = Organisation("org_a")
_KEY = make_key("groq", "gsk_aaaaaaaaaa", _ORG)
_TWIN = make_key("groq", "gsk_bbbbbbbbbb", _ORG)
_OTHER = make_key("groq", "gsk_cccccccccc", Organisation("org_b"))
_MAIL_A = make_key("resend", "re_aaaaaaaa_1", Team("team-a"))
_MAIL_B = make_key("resend", "re_bbbbbbbb_2", Team("team-b"))


class Time:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ledger(time: Time) -> Ledger:
    return Ledger(time, grace_ms=250, ring=3)


def _call(ledger: Ledger, time: Time, at_s: float, key: Key = _KEY, **call: Any) -> dict[str, Any]:
    time.now_s = at_s
    ledger.record(Call(at_s, key, **({"model": "m"} | call)))
    judgement: dict[str, Any] = ledger.summary()["judgement"]
    return judgement


def _refused(ledger: Ledger, time: Time, at_s: float, wait_s: float, key: Key = _KEY) -> None:
    _call(ledger, time, at_s, key, status=429, code="rpm", cool_until_s=at_s + wait_s)


@pytest.mark.parametrize(
    ("at_s", "key", "model", "violations", "same_key", "in_flight"),
    [
        (1_000.1, _KEY, "m", 0, 0, 1),  # in flight when the refusal was sent
        (1_000.3, _KEY, "m", 1, 1, 0),  # sent after the refusal had arrived
        (1_000.3, _TWIN, "m", 1, 0, 0),  # the account waits, whichever of its keys calls
        (1_000.3, _KEY, "other", 0, 0, 0),  # another model has buckets of its own
        (1_000.3, _OTHER, "m", 0, 0, 0),  # so does another organisation
        (1_009.9, _KEY, "m", 1, 1, 0),  # just before the end of the wait
        (1_009.9995, _KEY, "m", 0, 0, 0),  # a client that counts in milliseconds is on time
        (1_010.0, _KEY, "m", 0, 0, 0),  # at the end of the wait
    ],
)
def test_a_call_while_its_account_and_model_has_to_wait_is_a_violation(
    *,
    ledger: Ledger,
    time: Time,
    at_s: float,
    key: Key,
    model: str,
    violations: int,
    same_key: int,
    in_flight: int,
) -> None:
    _refused(ledger, time, 1_000.0, 10.0)
    judgement = _call(ledger, time, at_s, key, model=model)
    assert judgement["calls_while_cooling"] == violations
    assert judgement["calls_while_cooling_same_key"] == same_key
    assert judgement["in_flight_while_cooling"] == in_flight


def test_a_call_is_judged_by_when_it_arrived_not_by_when_it_was_decided(
    ledger: Ledger, time: Time
) -> None:
    _refused(ledger, time, 1_000.0, 10.0)
    time.now_s = 1_005.0
    ledger.record(Call(999.9, _KEY, "m"))
    assert ledger.summary()["judgement"]["calls_while_cooling"] == 0


def test_a_later_refusal_lengthens_the_wait_and_never_shortens_it(
    ledger: Ledger, time: Time
) -> None:
    _refused(ledger, time, 1_000.0, 2.0)
    _refused(ledger, time, 1_000.1, 5.0)
    _refused(ledger, time, 1_000.2, 1.0)
    assert _call(ledger, time, 1_004.0)["calls_while_cooling"] == 1
    assert _call(ledger, time, 1_005.2)["calls_while_cooling"] == 1


def test_a_wait_for_a_large_call_does_not_hold_for_a_smaller_one(
    ledger: Ledger, time: Time
) -> None:
    _call(ledger, time, 1_000.0, status=429, requested=500, cool_until_s=1_010.0, cool_tokens=500)
    assert _call(ledger, time, 1_001.0, requested=499)["calls_while_cooling"] == 0
    assert _call(ledger, time, 1_002.0, requested=500)["calls_while_cooling"] == 1
    _call(ledger, time, 1_003.0, status=429, requested=200, cool_until_s=1_005.0, cool_tokens=200)
    assert _call(ledger, time, 1_004.0, requested=300)["calls_while_cooling"] == 2, (
        "the longest wait applies from the smallest size on"
    )
    _call(ledger, time, 1_006.0, status=429, cool_until_s=1_008.0)
    assert _call(ledger, time, 1_007.0)["calls_while_cooling"] == 3, (
        "this wait applies to all calls"
    )


def test_a_violation_carries_its_evidence(ledger: Ledger, time: Time) -> None:
    _refused(ledger, time, 1_000.0, 10.0)
    _call(ledger, time, 1_004.0)
    (evidence,) = ledger.summary()["violations"]
    assert evidence["kind"] == "call_while_cooling"
    assert (evidence["ms_after_told"], evidence["ms_too_early"]) == (4_000.0, 6_000.0)
    assert ledger.summary()["judgement"]["worst_while_cooling_ms"] == 4_000.0


def test_a_dead_key_must_not_be_called_again_until_it_is_forgiven(
    ledger: Ledger, time: Time
) -> None:
    _call(ledger, time, 1_000.0, status=401, code="invalid_api_key", dead=True)
    assert _call(ledger, time, 1_000.2, status=401, dead=True)["in_flight_after_refusal"] == 1
    assert _call(ledger, time, 1_001.0, status=401, dead=True)["calls_after_refusal"] == 1
    assert _call(ledger, time, 1_002.0, _TWIN)["calls_after_refusal"] == 1
    ledger.mark_working(_KEY)
    ledger.mark_working(_OTHER)
    assert _call(ledger, time, 1_003.0)["calls_after_refusal"] == 1


def test_one_idempotency_key_accepted_by_two_teams_is_an_email_sent_twice(
    ledger: Ledger, time: Time
) -> None:
    sent: dict[str, Any] = {"accepted": True, "recipients": 2, "contents": ("c",), "model": ""}
    _call(ledger, time, 1_000.0, _MAIL_A, idempotency_key="job-1", emails=("e1",), **sent)
    _call(ledger, time, 1_001.0, _MAIL_A, idempotency_key="job-1", replayed=True, model="")
    judgement = _call(
        ledger, time, 1_002.0, _MAIL_B, idempotency_key="job-2", emails=("e2",), **sent
    )
    assert judgement["emails_accepted_twice"] == 0
    assert judgement["content_accepted_twice"] == 1
    judgement = _call(
        ledger, time, 1_003.0, _MAIL_B, idempotency_key="job-1", emails=("e3",), **sent
    )
    assert judgement["emails_accepted_twice"] == 1
    assert judgement["emails_accepted"] == 3
    assert judgement["recipients_accepted"] == 6
    assert ledger.summary()["violations"][-1]["accounts"] == ["team-a", "team-b"]
    assert (
        _call(ledger, time, 1_004.0, _MAIL_B, emails=("e4",), accepted=True)[
            "emails_without_idempotency_key"
        ]
        == 1
    )


def test_each_email_of_a_batch_is_judged_by_itself(ledger: Ledger, time: Time) -> None:
    batch: dict[str, Any] = {
        "accepted": True,
        "emails": ("e1", "e2"),
        "contents": ("c", "d"),
        "subjects": ("s", "t"),
    }
    single: dict[str, Any] = {
        "accepted": True,
        "emails": ("e3",),
        "contents": ("d",),
        "subjects": ("t",),
    }
    assert (
        _call(ledger, time, 1_000.0, _MAIL_A, idempotency_key="batch-1", **batch)[
            "content_accepted_twice"
        ]
        == 0
    )
    assert (
        _call(ledger, time, 1_001.0, _MAIL_B, idempotency_key="job-2", **single)[
            "content_accepted_twice"
        ]
        == 1
    )
    assert ledger.mail() == {"s": ["team-a"], "t": ["team-a", "team-b"]}


def test_counters_are_exact_while_full_records_are_a_ring(ledger: Ledger, time: Time) -> None:
    for number in range(10):
        _call(ledger, time, 1_000.0 + number, accepted=True, tokens=5)
    _call(ledger, time, 1_020.0, status=500, code="internal_error")
    summary = ledger.summary()
    assert len(ledger.full()) == 3
    assert summary["services"]["groq"]["calls"] == 11
    assert summary["services"]["groq"]["by_status"] == {"200": 10, "500": 1}
    assert summary["keys"][_KEY.fingerprint]["tokens"] == 50
    (account,) = summary["accounts"]
    assert (account["account"], account["model"], account["accepted"]) == ("org_a", "m", 10)
    assert (account["first_s"], account["last_s"]) == (1_000.0, 1_020.0)


def test_an_accepted_call_whose_answer_is_lost_is_counted(ledger: Ledger, time: Time) -> None:
    judgement = _call(
        ledger, time, 1_000.0, _MAIL_A, status=0, accepted=True, delivered=False, emails=("e",)
    )
    assert judgement["accepted_but_answer_lost"] == 1


def test_memory_stays_bounded_and_the_ledger_says_so(
    ledger: Ledger, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.ledger._MAX_KEYS", 2)
    monkeypatch.setattr("sandbox.ledger._MAX_IDEMPOTENCY_KEYS", 2)
    for number in range(3):
        judgement = _call(
            ledger,
            time,
            1_000.0 + number,
            _MAIL_A,
            accepted=True,
            emails=("e",),
            idempotency_key=f"job-{number}",
        )
    assert not judgement["exact"]
    ledger.clear()
    for number in range(5):
        judgement = _call(ledger, time, 1_000.0, make_key("groq", f"gsk_{number}", _ORG))
    assert not judgement["exact"]
    assert len(ledger.summary()["keys"]) == 3
    ledger.clear()
    assert ledger.summary()["judgement"]["exact"]
    _refused(ledger, time, 1_000.0, 900.0)
    for number in range(202):
        judgement = _call(ledger, time, 1_001.0 + number)
    assert judgement["calls_while_cooling"] == 202, (
        "each violation is counted, and some have evidence"
    )
    assert len(ledger.summary()["violations"]) == 200


def test_no_secret_is_in_the_ledger(ledger: Ledger, time: Time) -> None:
    _call(ledger, time, 1_000.0)
    assert _KEY.secret not in f"{ledger.summary()}{ledger.full()}{_KEY!r}"
