"""How jobs become dead letters, and how they are replayed.

A real worker, real Redis, the sandbox as both providers.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fleets import Stack
from tests.processes import eventually
from tests.workers.deadletters.dead_letter_jobs import (
    EMAIL,
    SECRET,
    await_dead_letter,
    complete,
    dead_letters,
    send,
)


def test_a_failed_job_is_kept_with_its_attempts_and_replayed_under_its_id(
    fresh: Stack,
) -> None:
    # A failure of all keys costs no attempt, so the fault is an answer that is not JSON, twice.
    fresh.sandbox.control("fault", service="groq", kind="json_validate_failed", count=2)
    job = complete(fresh)
    assert type(fresh.producer.outcome(job)).__name__ == "RetriesExhausted"
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["task"], dead_letter["queue"]) == ("tasks.ai.complete", "ai")
    assert (dead_letter["service"], dead_letter["kind"]) == ("groq", "failed")
    assert dead_letter["reason"].startswith("RetriesExhausted: gave up after 2 tries")
    assert [attempt["code"] for attempt in dead_letter["attempts"]] == ["bad_generation"] * 2
    assert all(
        attempt["key"].startswith("gsk_") and attempt["key"].endswith("...")
        for attempt in dead_letter["attempts"]
    )
    assert (
        dead_letter["since_ms"]
        <= dead_letter["attempts"][0]["at_ms"]
        <= dead_letter["attempts"][1]["at_ms"]
        <= dead_letter["at_ms"] + 1_000
    )
    assert (dead_letter["calls"], dead_letter["faults"], dead_letter["replayable"]) == (2, 1, True)
    assert SECRET not in json.dumps(dead_letter)

    assert fresh.producer.ask("tasks.admin.replay", id=job.id) == {
        "replayed": [job.id],
        "refused": [],
    }
    again = fresh.producer.app.AsyncResult(job.id)
    eventually(lambda: again.state == "SUCCESS", what="the replayed job's success")
    assert dead_letters(fresh) == []
    assert SECRET not in fresh.worker.log


def test_a_callers_mistake_is_kept_too_and_a_success_is_not(fresh: Stack) -> None:
    wrong = send(fresh, "tasks.ai.complete", kwargs={"prompt": SECRET, "temperature": 9})
    right = complete(fresh)
    fresh.producer.outcome(wrong)
    assert fresh.producer.outcome(right)["text"]
    fresh.producer.ask("tasks.admin.dead_letters", limit=5)
    [dead_letter] = dead_letters(fresh)
    assert (dead_letter["id"], dead_letter["kind"], dead_letter["in_doubt"]) == (
        wrong.id,
        "failed",
        False,
    )
    assert dead_letter["reason"] == "InvalidArguments: temperature: must be less than or equal to 2"


def test_an_operators_own_mistake_is_not_kept(fresh: Stack) -> None:
    assert isinstance(fresh.producer.ask("tasks.admin.replay"), Exception)
    assert "no dead letter" in str(fresh.producer.ask("tasks.admin.replay", id="nobodys"))
    assert dead_letters(fresh) == []


def test_a_dead_letter_that_cannot_be_read_is_not_reported_as_unknown(fresh: Stack) -> None:
    client = fresh.producer.app.backend.client
    client.set("{kw:dead}:heads", "not the hash that it should be")
    assert "WRONGTYPE" in str(fresh.producer.ask("tasks.admin.replay", id="somebodys"))


def test_an_expired_job_is_kept_and_can_be_replayed(fresh: Stack) -> None:
    job = complete(fresh, expires=datetime.now(UTC) - timedelta(minutes=1))
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["kind"], dead_letter["reason"].partition(":")[0]) == (
        "expired",
        "DeadlineExceeded",
    )
    ended = fresh.producer.app.AsyncResult(job.id)
    eventually(lambda: ended.state == "REVOKED", what="the end in the result store")
    assert type(ended.result).__name__ == "DeadlineExceeded", (
        "the error has the same name as in the dead letter"
    )
    assert fresh.producer.ask("tasks.admin.replay", kind="expired")["replayed"] == [job.id]
    eventually(
        lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the success"
    )


def test_a_job_that_ran_into_the_hard_limit_is_kept(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="groq", kind="hang_before", hang_s=20, count=1)
    job = complete(fresh, time_limit=1)
    assert type(fresh.producer.outcome(job)).__name__ == "TimeLimitExceeded"
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["kind"], dead_letter["in_doubt"], dead_letter["replayable"]) == (
        "timeout",
        True,
        True,
    )
    fresh.sandbox.control("clear", service="groq")


def test_a_job_whose_message_is_rejected_for_good_is_kept(fresh: Stack) -> None:
    job = send(
        fresh, "shop.orders.doom", kwargs={"how": "Reject", "words": "canary-59"}, queue="ai"
    )
    dead_letter = await_dead_letter(fresh, job.id)
    assert (
        dead_letter["kind"],
        dead_letter["reason"].partition(" in ")[0],
        dead_letter["replayable"],
    ) == (
        "failed",
        "Reject",
        True,
    )


def test_a_job_that_failed_is_kept_although_its_errback_cannot_be_sent(fresh: Stack) -> None:
    errback = {"task": "shop.apology", "args": [], "kwargs": {}, "options": {"serializer": "none"}}
    job = send(
        fresh, "tasks.ai.complete", kwargs={"prompt": SECRET, "model": ""}, link_error=errback
    )
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["queue"], dead_letter["kind"], dead_letter["replayable"]) == (
        "ai",
        "failed",
        True,
    )


# Why a job that had failed ran once more.
@pytest.mark.parametrize("how", ["replayed", "redelivered"])
def test_a_job_that_succeeds_later_keeps_no_dead_letter(fresh: Stack, how: str) -> None:
    job = complete(fresh, headers={"deaths": 3, "keywheel_alone": 2})
    fresh.producer.outcome(job)
    assert await_dead_letter(fresh, job.id)
    job.forget()
    if how == "replayed":  # and the replaying process was killed before it deleted the dead letter
        complete(fresh, task_id=job.id, headers={"keywheel_doubt_ms": 0})
    else:
        complete(fresh, task_id=job.id, delivery_info={"redelivered": True})
    eventually(lambda: not dead_letters(fresh), what="the letter's end")
    assert fresh.producer.app.AsyncResult(job.id).state == "SUCCESS"


def test_a_job_that_has_succeeded_meanwhile_is_not_replayed(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="groq", status=400, count=1)
    job = complete(fresh)
    fresh.producer.outcome(job)
    assert await_dead_letter(fresh, job.id)
    complete(fresh, task_id=job.id)  # for a completion, no dead letter is looked up
    eventually(
        lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the copy's success"
    )
    answer = fresh.producer.ask("tasks.admin.replay", id=job.id, force=True)
    reason = "it has succeeded: a copy of its message was served"
    assert answer == {"replayed": [], "refused": [{"id": job.id, "reason": reason}]}
    assert fresh.producer.app.AsyncResult(job.id).state == "SUCCESS"


def test_a_job_that_failed_does_not_run_again_when_only_its_acknowledgement_was_lost(
    fresh: Stack,
) -> None:
    client = fresh.producer.app.backend.client
    job = complete(fresh, queue="parked")
    message = json.loads(client.rpop("parked"))
    message["properties"]["delivery_info"]["routing_key"] = "ai"
    fresh.sandbox.control("fault", service="groq", status=400, count=1)
    client.lpush("ai", json.dumps(message))
    assert type(fresh.producer.outcome(job)).__name__ == "RequestRejected"
    before = await_dead_letter(fresh, job.id)

    message["properties"]["delivery_info"]["redelivered"] = True
    client.lpush("ai", json.dumps(message))
    eventually(
        lambda: f"{job.id} has failed already" in fresh.worker.log, what="the second delivery's end"
    )
    eventually(
        lambda: not client.hlen("unacked") and not client.llen("ai"), what="its acknowledgement"
    )
    assert job.state == "FAILURE"
    assert await_dead_letter(fresh, job.id) == before
    assert fresh.sandbox.ledger()["services"]["groq"]["calls"] == 1


def test_a_stored_failure_is_final_although_the_worker_died_before_the_dead_letter(
    fresh: Stack,
) -> None:
    fresh.sandbox.control("fault", service="resend", kind="validation_error", count=1)
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    first = fresh.producer.outcome(job)
    before = await_dead_letter(fresh, job.id)
    client = fresh.producer.app.backend.client
    client.delete(*client.keys("{kw:dead}:*"))  # as if it had not been written
    send(
        fresh, "tasks.email.send", kwargs=EMAIL, task_id=job.id, delivery_info={"redelivered": True}
    )
    again = await_dead_letter(fresh, job.id)
    assert (again["kind"], again["reason"], again["replayable"]) == (
        before["kind"],
        before["reason"],
        True,
    )
    second = fresh.producer.app.AsyncResult(job.id).result
    assert (type(second).__name__, str(second)) == (type(first).__name__, str(first))
    assert fresh.sandbox.ledger()["services"]["resend"]["calls"] == 1
    # A person may still decide otherwise: a replay first deletes the failure.
    assert fresh.producer.ask("tasks.admin.replay", id=job.id)["replayed"] == [job.id]
    eventually(
        lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS",
        what="the replayed job's success",
    )


def test_another_email_under_the_id_of_one_that_was_sent_leaves_a_dead_letter(fresh: Stack) -> None:
    mail = {"to": "a@example.com", "subject": "One", "text": "x"}
    first = send(fresh, "tasks.email.send", kwargs=mail)
    assert fresh.producer.outcome(first)["id"]
    send(fresh, "tasks.email.send", kwargs=mail | {"subject": "Another"}, task_id=first.id)
    eventually(lambda: dead_letters(fresh), what="a letter")
    [dead_letter] = dead_letters(fresh)
    assert (dead_letter["id"], dead_letter["kind"]) == (first.id, "failed")
    assert dead_letter["reason"].startswith(
        "InvalidArguments: idempotency_key: was used for an email with different content"
    )
    assert fresh.sandbox.mail().get("Another") is None


# The end of a job whose dead letter cannot be written for a while.
@pytest.mark.parametrize("how", ["failed", "expired", "timeout"])
def test_a_message_is_not_acknowledged_before_its_dead_letter_is_written(
    fresh: Stack, how: str
) -> None:
    client = fresh.producer.app.backend.client
    client.set("{kw:dead}:index", "no sorted set")  # so every dead letter is refused
    options: dict[str, Any] = {}
    if how == "expired":
        options = {"expires": datetime.now(UTC) - timedelta(minutes=1)}
    elif how == "timeout":
        fresh.sandbox.control("fault", service="groq", kind="hang_before", hang_s=20, count=1)
        options = {"time_limit": 1}
    else:
        fresh.sandbox.control("fault", service="groq", status=400, count=1)
    job = complete(fresh, **options)
    ended = {"failed": "FAILURE", "expired": "REVOKED", "timeout": "FAILURE"}[how]
    eventually(lambda: fresh.producer.app.AsyncResult(job.id).state == ended, what="the job's end")
    given_up = f"cannot keep a dead letter (ResponseError): tasks.ai.complete[{job.id}]"
    eventually(lambda: given_up in fresh.worker.log, what="the end of the patience")
    client.delete("{kw:dead}:index")
    assert await_dead_letter(fresh, job.id)["kind"] == how
    eventually(
        lambda: not client.hlen("unacked") and not client.llen("ai"), what="its acknowledgement"
    )
    fresh.sandbox.control("clear", service="groq")
    assert fresh.producer.app.AsyncResult(job.id).state == ended
    assert fresh.sandbox.ledger()["services"]["groq"]["calls"] == (how != "expired")


def test_arguments_that_are_too_large_are_left_out_of_the_dead_letter(fresh: Stack) -> None:
    job = send(fresh, "tasks.ai.complete", kwargs={"prompt": "x" * 10_000_000, "model": ""})
    fresh.producer.outcome(job)
    dead_letter = await_dead_letter(fresh, job.id)
    assert (dead_letter["replayable"], dead_letter["size"], dead_letter["note"]) == (
        False,
        0,
        "its arguments were too large to be kept",
    )
    answer = fresh.producer.ask("tasks.admin.replay", id=job.id)
    assert answer == {
        "replayed": [],
        "refused": [{"id": job.id, "reason": "its arguments were too large to be kept"}],
    }
    assert await_dead_letter(fresh, job.id)
