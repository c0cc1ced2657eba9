"""Emails in doubt: the content of their dead letters, and when they are sent again."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fleets import Stack
from tests.processes import eventually
from tests.workers.deadletters.dead_letter_jobs import (
    EMAIL,
    await_dead_letter,
    complete,
    dead_letters,
    send,
)


# Whether the job's last call is in doubt when it expires; the content of its dead letter.
@pytest.mark.parametrize(
    ("in_doubt", "kind", "reason"),
    [
        (
            False,
            "expired",
            "DeadlineExceeded: it was not done when its producer's expiry time passed",
        ),
        (
            True,
            "unknown",
            (
                "OutcomeUnknown: an earlier attempt may have been accepted, and then it was not "
                "done "
                "when"
            ),
        ),
    ],
)
def test_an_email_that_expires_between_two_tries_says_whether_it_is_in_doubt(
    fresh: Stack, *, in_doubt: bool, kind: str, reason: str
) -> None:
    call = {
        "at_ms": round(time.time() * 1000),
        "key": "re_abc123...",
        "code": "read_timeout",
        "in_doubt": in_doubt,
    }
    past = datetime.now(UTC) - timedelta(minutes=1)
    headers = {"keywheel": {"since_ms": call["at_ms"], "attempts": 1, "trail": [call]}}
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, expires=past, headers=headers)
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["kind"], dead_letter["in_doubt"]) == (kind, in_doubt)
    assert dead_letter["reason"].startswith(reason)


# The fields of a message that show that a worker has held it before.
@pytest.mark.parametrize(
    "redelivery", [{"delivery_info": {"redelivered": True}}, {"headers": {"deaths": 1}}]
)
def test_an_email_that_a_dead_worker_held_and_that_expires_then_is_in_doubt(
    fresh: Stack, redelivery: dict[str, Any]
) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, expires=past, **redelivery)
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["kind"], dead_letter["in_doubt"]) == ("unknown", True)
    answer = fresh.producer.ask("tasks.admin.replay", id=job.id)
    assert [refusal["id"] for refusal in answer["refused"]] == [job.id]
    assert "so it requires force" in answer["refused"][0]["reason"]
    # A completion has no side effect.
    job = complete(fresh, expires=past, **redelivery)
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["kind"], dead_letter["in_doubt"]) == ("expired", False)


def test_an_expired_redelivery_of_a_job_that_succeeded_leaves_no_dead_letter(
    fresh: Stack,
) -> None:
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    first = fresh.producer.outcome(job)
    past = datetime.now(UTC) - timedelta(minutes=1)
    again = {"task_id": job.id, "expires": past, "delivery_info": {"redelivered": True}}
    send(fresh, "tasks.email.send", kwargs=EMAIL, **again)
    eventually(
        lambda: f"{job.id} has expired, but it had succeeded" in fresh.worker.log,
        what="the second delivery's end",
    )
    eventually(
        lambda: not fresh.producer.app.backend.client.hlen("unacked"), what="its acknowledgement"
    )
    assert dead_letters(fresh) == []
    assert fresh.producer.app.AsyncResult(job.id).result["id"] == first["id"]


def test_an_email_in_doubt_is_replayed_with_its_idempotency_key(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="resend", kind="reset_after")
    job = send(fresh, "tasks.email.send", kwargs=EMAIL | {"deadline_s": 3})
    assert type(fresh.producer.outcome(job)).__name__ == "OutcomeUnknown"
    fresh.sandbox.control("clear", service="resend")
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["service"], dead_letter["in_doubt"], dead_letter["replayable"]) == (
        "resend",
        True,
        True,
    )
    assert fresh.producer.ask("tasks.admin.replay", service="resend")["replayed"] == [job.id]
    eventually(
        lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the success"
    )
    assert fresh.sandbox.ledger()["judgement"]["emails_accepted"] == 1


def test_an_email_in_doubt_is_not_sent_again_once_its_idempotency_key_is_forgotten(
    fresh: Stack,
) -> None:
    two_days_ago_ms = round((time.time() - 48 * 3600) * 1000)
    replayed = send(
        fresh, "tasks.email.send", kwargs=EMAIL, headers={"keywheel_doubt_ms": two_days_ago_ms}
    )
    call = {"at_ms": two_days_ago_ms, "key": "re_abc123...", "code": "timeout", "in_doubt": True}
    waited = send(
        fresh,
        "tasks.email.send",
        kwargs=EMAIL,
        headers={"keywheel": {"attempts": 1, "trail": [call]}},
    )
    for job in (replayed, waited):
        assert type(fresh.producer.outcome(job)).__name__ == "OutcomeUnknown"
        assert await_dead_letter(fresh, job.id)["kind"] == "unknown"
    assert fresh.sandbox.ledger()["services"]["resend"]["calls"] == 0


# How many hours ago the worker that died with an email was last alive, and whether the email is
# sent anew. The idempotency store has no record of it: it was not sent, or that is too long ago.
@pytest.mark.parametrize(
    ("hours", "runs"), [(0.1, True), (48, True), (71, True), (74, False), (1_000, False)]
)
def test_an_email_whose_worker_died_longer_ago_than_the_store_remembers_is_not_sent_again(
    fresh: Stack, hours: float, runs: Any
) -> None:
    headers = {"deaths": 1, "died_s": time.time() - hours * 3600}
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, headers=headers)
    outcome = fresh.producer.outcome(job)
    assert fresh.sandbox.ledger()["judgement"]["emails_accepted"] == runs
    if not runs:
        assert type(outcome).__name__ == "OutcomeUnknown"
        assert await_dead_letter(fresh, job.id)["in_doubt"]


def test_the_error_of_an_email_whose_workers_died_says_that_it_may_have_been_sent(
    fresh: Stack,
) -> None:
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, headers={"deaths": 3, "keywheel_alone": 2})
    outcome = fresh.producer.outcome(job)
    assert type(outcome).__name__ == "Poisoned"
    assert str(outcome).endswith("not run again automatically; the email may have been sent")
    assert await_dead_letter(fresh, job.id)["in_doubt"]


def test_an_email_that_was_sent_keeps_no_dead_letter_of_a_copy_that_failed(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="resend", kind="validation_error", count=1)
    first = send(fresh, "tasks.email.send", kwargs=EMAIL)
    fresh.producer.outcome(first)
    assert await_dead_letter(fresh, first.id)["kind"] == "failed"
    send(fresh, "tasks.email.send", kwargs=EMAIL, task_id=first.id)
    eventually(
        lambda: fresh.producer.app.AsyncResult(first.id).state == "SUCCESS",
        what="the copy's success",
    )
    eventually(lambda: not dead_letters(fresh), what="the letter's end")


def test_an_email_that_was_sent_gets_no_dead_letter_when_a_copy_fails_later(fresh: Stack) -> None:
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    sent = fresh.producer.outcome(job)
    send(fresh, "tasks.email.send", kwargs=EMAIL | {"to": "nobody at all"}, task_id=job.id)
    eventually(
        lambda: f"{job.id} has succeeded already, by a copy" in fresh.worker.log,
        what="the copy's end",
    )
    assert dead_letters(fresh) == []
    assert fresh.producer.app.AsyncResult(job.id).result == sent
