"""A job's deadline: when it ends the job, and with which message."""

import time
from typing import Any

import pytest
from celery.exceptions import Retry

from tests.integration.turns.turns_bench import Bench
from worker.errors import (
    DeadlineExceeded,
    Deferred,
    OutcomeUnknown,
    RetriesExhausted,
    TransientError,
)
from worker.rotation.served import Served


async def test_a_job_past_its_deadline_fails_with_what_it_waited_for(bench: Bench) -> None:
    header = {
        "since_ms": round((time.time() - 61) * 1000),
        "deferrals": 7,
        "deferred": True,
        "reason": "rate_limit",
    }
    with pytest.raises(
        DeadlineExceeded, match=r"^no key was free within 60 s \(7 deferrals\): rate_limit$"
    ):
        await bench.turn(Deferred(1_000, "rate_limit"), header=header, deadline_s=60)
    assert bench.sent() == []


async def test_a_job_past_its_deadline_is_not_served_although_a_key_is_free(bench: Bench) -> None:
    free = Served({}, "k", attempts=1, waited_ms=0)
    header = {
        "since_ms": round((time.time() - 61) * 1000),
        "deferrals": 1,
        "deferred": True,
        "reason": "tpm",
    }
    with pytest.raises(
        DeadlineExceeded, match=r"^no key was free within 60 s \(1 deferrals\): tpm$"
    ):
        await bench.turn(free, header=header, deadline_s=60)
    header |= {"deferred": False, "reason": "it failed"}
    with pytest.raises(
        DeadlineExceeded,
        match=r"^no time is left for another try within 60 s \(tries so far: 2\): ",
    ):
        await bench.turn(free, header=header, retries=2, deadline_s=60)
    assert bench.rotation.lease_request is None


# The history of an email whose deadline passes before its turn, and whether it may have been
# accepted.
@pytest.mark.parametrize(
    ("emails", "history", "in_doubt"),
    [
        (1, {}, False),
        (1, {"in_doubt": True}, True),  # the last turn found the record of a worker that died
        (0, {"in_doubt": True}, False),  # a completion
        (
            1,
            {
                "trail": [
                    {"at_ms": 1, "key": "re_abc123...", "code": "read_timeout", "in_doubt": True}
                ]
            },
            True,
        ),
    ],
)
async def test_an_email_past_its_deadline_says_whether_it_may_have_been_accepted(
    bench: Bench, emails: int, history: dict[str, Any], *, in_doubt: bool
) -> None:
    with pytest.raises(OutcomeUnknown if in_doubt else DeadlineExceeded):
        await bench.turn(
            Deferred(1_000, "x"), header={"since_ms": 1} | history, emails=emails, deadline_s=60
        )


# Age of the job, its own deadline and that of the settings, in seconds; how the turn ended; the
# error and its message.
@pytest.mark.parametrize(
    ("age_s", "own_s", "settings_s", "outcome", "words"),
    [
        # its own deadline is over, that of the settings is not
        (61, 60, 3600, Deferred(1_000, "tpm"), r"^no time is left for another try within 60 s"),
        # that of the settings is over, its own is not
        (61, 3600, 60, Deferred(1_000, "tpm"), None),
        (61, None, 60, Deferred(1_000, "tpm"), r"^no time is left for another try within 60 s"),
        # the next attempt would come too late
        (
            50,
            60,
            3600,
            TransientError("it failed", 20_000),
            r"^no time is left for another try within 60 s \(tries so far: 1\): it",
        ),
        (50, 3600, 60, TransientError("it failed", 20_000), None),
        (50, 80, 3600, TransientError("it failed", 20_000), None),
    ],
)
async def test_a_deadline_of_its_own_goes_before_that_of_the_settings(  # noqa: PLR0917 - a table
    bench: Bench,
    age_s: float,
    own_s: float | None,
    settings_s: float,
    outcome: Exception,
    words: str | None,
) -> None:
    header = {"since_ms": round((time.time() - age_s) * 1000)}
    with pytest.raises(DeadlineExceeded if words else Retry, match=words):
        await bench.turn(outcome, header=header, own_deadline_s=own_s, deadline_s=settings_s)


async def test_no_job_waits_for_a_key_beyond_its_deadline(bench: Bench) -> None:
    header = {"since_ms": round((time.time() - 50) * 1000)}
    await bench.turn(Served({}, "k", attempts=1, waited_ms=0), header=header, own_deadline_s=60)
    assert bench.rotation.longest_s is not None
    assert 0 < bench.rotation.longest_s <= 10


@pytest.mark.parametrize(
    ("turn", "otherwise"),
    [
        ({"outcome": TransientError("it failed", 90_000), "own_deadline_s": 60}, DeadlineExceeded),
        ({"outcome": TransientError("it failed"), "retries": 4}, RetriesExhausted),
    ],
)
async def test_an_email_that_may_have_been_accepted_ends_with_that_whatever_stopped_it(
    bench: Bench, turn: dict[str, Any], otherwise: type[Exception]
) -> None:
    turn["outcome"].in_doubt = False
    with pytest.raises(otherwise):
        await bench.turn(**turn)
    turn["outcome"].in_doubt = True
    with pytest.raises(
        OutcomeUnknown, match=r"^an earlier attempt may have been accepted, and then "
    ):
        await bench.turn(**turn)


async def test_a_deadline_that_passes_while_the_job_waits_ends_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is not deferred once more, because its result is no longer wanted."""
    now_s = time.time()

    async def serve(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(time, "time", lambda: now_s + 2)
        raise Deferred(1_000, "rate_limit")

    monkeypatch.setattr("tests.integration.turns.turns_bench.ScriptedRotation.serve", serve)
    with pytest.raises(DeadlineExceeded, match="no key was free within 60 s"):
        await bench.turn(
            Deferred(1_000, "rate_limit"),
            header={"since_ms": round((now_s - 59) * 1000)},
            own_deadline_s=60,
        )
    assert bench.sent() == []
