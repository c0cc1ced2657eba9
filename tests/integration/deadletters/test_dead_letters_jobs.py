"""How jobs become dead letters and live again: a real worker, real Redis, the sandbox as both providers."""

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.result import AsyncResult
from processes import House, eventually

ANN = "ann@example.com"
SECRET = "canary-4711 of a prompt"
EMAIL = {"from": "News <news@team1.example.net>", "to": [ANN], "subject": SECRET, "text": SECRET}


def send(house: House, name: str, *, kwargs: dict[str, Any], **options: Any) -> AsyncResult:
    return house.producer.app.send_task(name, kwargs=kwargs, **{"queue": name.split(".")[1]} | options)


def complete(house: House, **options: Any) -> AsyncResult:
    return send(house, "tasks.ai.complete", kwargs={"prompt": SECRET}, **options)


def letters(house: House, **which: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = house.producer.ask("tasks.admin.dead_letters", **which)["letters"]
    return found


def letter(house: House, job: str) -> dict[str, Any]:
    [found] = eventually(lambda: [one for one in letters(house) if one["id"] == job], what=f"the letter of {job}")
    return dict(found)


def publish(
    house: House, body: Any, *, queue: str = "ai", content_type: str = "application/json", **headers: Any
) -> None:
    with house.producer.app.connection_for_write() as connection, connection.Producer() as producer:
        producer.publish(
            body, routing_key=queue, content_type=content_type, content_encoding="utf-8", headers=headers, retry=True
        )


def test_a_job_that_failed_is_kept_with_who_said_what_and_runs_again_with_its_id(fresh: House) -> None:
    fresh.sandbox.control("fault", service="groq", status=502, count=2)
    job = complete(fresh)
    assert type(fresh.producer.outcome(job)).__name__ == "FaultBudgetSpent"
    found = letter(fresh, job.id)
    assert (found["task"], found["queue"], found["service"], found["kind"]) == (
        "tasks.ai.complete", "ai", "groq", "failed",
    )  # fmt: skip
    assert found["reason"].startswith("FaultBudgetSpent: gave up after 2 tries")
    assert [one["code"] for one in found["trail"]] == ["server_error", "server_error"]
    assert all(one["key"].startswith("gsk_") and one["key"].endswith("...") for one in found["trail"])
    assert found["since_ms"] <= found["trail"][0]["at_ms"] <= found["trail"][1]["at_ms"] <= found["at_ms"] + 1_000
    assert (found["calls"], found["faults"], found["replayable"]) == (2, 1, True)
    assert SECRET not in json.dumps(found)

    assert fresh.producer.ask("tasks.admin.replay", id=job.id) == {"replayed": [job.id], "refused": []}
    again = fresh.producer.app.AsyncResult(job.id)
    eventually(lambda: again.state == "SUCCESS", what="the replayed job's success")
    assert letters(fresh) == []
    assert SECRET not in fresh.worker.log


def test_a_callers_mistake_is_kept_too_and_a_success_is_not(fresh: House) -> None:
    wrong = send(fresh, "tasks.ai.complete", kwargs={"prompt": SECRET, "temperature": 9})
    right = complete(fresh)
    fresh.producer.outcome(wrong)
    assert fresh.producer.outcome(right)["text"]
    fresh.producer.ask("tasks.admin.dead_letters", limit=5)
    [found] = letters(fresh)
    assert (found["id"], found["kind"], found["in_doubt"]) == (wrong.id, "failed", False)
    assert found["reason"] == "InvalidArguments: temperature: Input should be less than or equal to 2"


def test_an_operators_own_mistake_is_not_kept(fresh: House) -> None:
    assert isinstance(fresh.producer.ask("tasks.admin.replay"), Exception)
    assert letters(fresh) == []


def test_a_job_that_its_producer_let_expire_is_kept_and_can_run_later(fresh: House) -> None:
    job = complete(fresh, expires=datetime.now(UTC) - timedelta(minutes=1))
    found = letter(fresh, job.id)
    assert (found["kind"], found["reason"].partition(":")[0]) == ("expired", "DeadlineExceeded")
    assert fresh.producer.app.AsyncResult(job.id).state == "REVOKED"
    assert fresh.producer.ask("tasks.admin.replay", kind="expired")["replayed"] == [job.id]
    eventually(lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the success")


# What the job had behind it when its producer's time was over; what its letter says.
@pytest.mark.parametrize(
    ("in_doubt", "kind", "reason"),
    [
        (False, "expired", "DeadlineExceeded: it was not done when the time that its producer gave it was over"),
        (True, "unknown", "OutcomeUnknown: an earlier attempt may have been accepted, and then it was not done when"),
    ],
)
def test_an_email_that_expires_between_two_tries_says_whether_it_is_in_doubt(
    fresh: House, *, in_doubt: bool, kind: str, reason: str
) -> None:
    call = {"at_ms": round(time.time() * 1000), "key": "re_abc123...", "code": "read_timeout", "in_doubt": in_doubt}
    past = datetime.now(UTC) - timedelta(minutes=1)
    headers = {"keywheel": {"since_ms": call["at_ms"], "attempts": 1, "trail": [call]}}
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, expires=past, headers=headers)
    found = letter(fresh, job.id)
    assert (found["kind"], found["in_doubt"]) == (kind, in_doubt)
    assert found["reason"].startswith(reason)


# How a message tells that a worker has held it before.
@pytest.mark.parametrize("told", [{"delivery_info": {"redelivered": True}}, {"headers": {"deaths": 1}}])
def test_an_email_that_a_dead_worker_held_and_that_expires_then_is_in_doubt(fresh: House, told: dict[str, Any]) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, expires=past, **told)
    found = letter(fresh, job.id)
    assert (found["kind"], found["in_doubt"]) == ("unknown", True)
    answer = fresh.producer.ask("tasks.admin.replay", id=job.id)
    assert [one["id"] for one in answer["refused"]] == [job.id]
    assert "which needs force" in answer["refused"][0]["reason"]
    # A completion has no side effect.
    job = complete(fresh, expires=past, **told)
    assert (letter(fresh, job.id)["kind"], letter(fresh, job.id)["in_doubt"]) == ("expired", False)


def test_a_job_that_had_succeeded_has_no_letter_although_its_message_comes_again_and_has_expired(fresh: House) -> None:
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    first = fresh.producer.outcome(job)
    past = datetime.now(UTC) - timedelta(minutes=1)
    again = {"task_id": job.id, "expires": past, "delivery_info": {"redelivered": True}}
    send(fresh, "tasks.email.send", kwargs=EMAIL, **again)
    eventually(lambda: f"{job.id} has succeeded already" in fresh.worker.log, what="the second delivery's end")
    eventually(lambda: not fresh.producer.app.backend.client.hlen("unacked"), what="its acknowledgement")
    assert letters(fresh) == []
    assert fresh.producer.app.AsyncResult(job.id).result["id"] == first["id"]


def test_a_job_that_ran_into_the_hard_limit_is_kept(fresh: House) -> None:
    fresh.sandbox.control("fault", service="groq", kind="hang_before", hang_s=20, count=1)
    job = complete(fresh, time_limit=1)
    assert type(fresh.producer.outcome(job)).__name__ == "TimeLimitExceeded"
    found = letter(fresh, job.id)
    assert (found["kind"], found["in_doubt"], found["replayable"]) == ("timeout", True, True)
    fresh.sandbox.control("clear", service="groq")


def test_an_email_in_doubt_is_replayed_with_its_idempotency_key(fresh: House) -> None:
    fresh.sandbox.control("fault", service="resend", kind="reset_after", count=2)
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    fresh.producer.outcome(job)
    found = letter(fresh, job.id)
    assert (found["service"], found["in_doubt"], found["replayable"]) == ("resend", True, True)
    assert fresh.producer.ask("tasks.admin.replay", service="resend")["replayed"] == [job.id]
    eventually(lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the success")
    assert fresh.sandbox.ledger()["judgement"]["emails_accepted"] == 1


def test_an_email_in_doubt_is_not_sent_anew_when_everybody_has_forgotten_it(fresh: House) -> None:
    two_days_ago_ms = round((time.time() - 48 * 3600) * 1000)
    replayed = send(fresh, "tasks.email.send", kwargs=EMAIL, headers={"keywheel_doubt_ms": two_days_ago_ms})
    call = {"at_ms": two_days_ago_ms, "key": "re_abc123...", "code": "timeout", "in_doubt": True}
    waited = send(fresh, "tasks.email.send", kwargs=EMAIL, headers={"keywheel": {"attempts": 1, "trail": [call]}})
    for job in (replayed, waited):
        assert type(fresh.producer.outcome(job)).__name__ == "OutcomeUnknown"
        assert letter(fresh, job.id)["kind"] == "unknown"
    assert fresh.sandbox.ledger()["services"]["resend"]["calls"] == 0


# How long ago the worker was last heard of that died with an email, in hours, and whether the email is sent anew. The
# outbox knows nothing of it: it was not sent, or that is too long ago.
@pytest.mark.parametrize(("hours", "runs"), [(0.1, True), (48, True), (71, True), (74, False), (1_000, False)])
def test_an_email_whose_worker_died_longer_ago_than_the_outbox_remembers_is_not_sent_anew(
    fresh: House, hours: float, runs: Any
) -> None:
    headers = {"deaths": 1, "died_s": time.time() - hours * 3600}
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, headers=headers)
    outcome = fresh.producer.outcome(job)
    assert fresh.sandbox.ledger()["judgement"]["emails_accepted"] == runs
    if not runs:
        assert type(outcome).__name__ == "OutcomeUnknown"
        assert letter(fresh, job.id)["in_doubt"]


def test_an_email_whose_workers_died_says_that_it_may_have_been_sent(fresh: House) -> None:
    job = send(fresh, "tasks.email.send", kwargs=EMAIL, headers={"deaths": 3, "keywheel_alone": 2})
    outcome = fresh.producer.outcome(job)
    assert type(outcome).__name__ == "Poisoned"
    assert str(outcome).endswith("so it is not run again by itself; the email may have been sent")
    assert letter(fresh, job.id)["in_doubt"]


# How many deaths a message says it was near, with how many it ran alone, and whether it runs.
@pytest.mark.parametrize(
    ("deaths", "alone", "runs"),
    [(2, None, True), (10**9, None, True), (3, 2, False), (9, 2, False), ("3", 2, True), (True, 2, True)],
)
def test_a_job_whose_worker_died_too_often_is_not_run_again(
    fresh: House, deaths: Any, alone: int | None, runs: Any
) -> None:
    job = complete(fresh, headers={"deaths": deaths, "keywheel_alone": alone})
    outcome = fresh.producer.outcome(job)
    if runs:
        assert outcome["text"]
        assert letters(fresh) == []
        return
    assert type(outcome).__name__ == "Poisoned"
    assert letter(fresh, job.id)["kind"] == "poison"
    assert fresh.sandbox.ledger()["services"]["groq"]["calls"] == 0
    assert fresh.producer.ask("tasks.admin.replay", kind="poison")["replayed"] == [job.id]
    eventually(lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the success")


def test_a_message_that_workers_died_of_before_a_task_could_refuse_it_is_kept_as_it_came(fresh: House) -> None:
    job = complete(fresh, headers={"deaths": 4, "keywheel_alone": 3})
    assert type(fresh.producer.outcome(job)).__name__ == "Poisoned"
    found = letter(fresh, job.id)
    assert (found["kind"], found["task"], found["replayable"]) == ("poison", "tasks.ai.complete", False)
    assert found["reason"].startswith("Poisoned: 4 workers died")


@pytest.mark.parametrize("how", ["SystemExit", "MemoryError"])
def test_a_job_that_means_to_end_its_worker_again_and_again_is_kept_in_the_end(fresh: House, how: str) -> None:
    job = send(fresh, "shop.orders.doom", kwargs={"how": how, "words": "canary-58"}, queue="ai")
    found = letter(fresh, job.id)
    assert (found["service"], found["kind"], found["faults"], found["replayable"]) == ("other", "poison", 1, True)
    assert found["reason"].startswith("WorkerLostError in ")
    assert "canary-58" not in json.dumps(found)
    assert type(fresh.producer.outcome(job)).__name__ == "WorkerLostError"


def test_a_job_whose_message_is_rejected_for_good_is_kept(fresh: House) -> None:
    job = send(fresh, "shop.orders.doom", kwargs={"how": "Reject", "words": "canary-59"}, queue="ai")
    found = letter(fresh, job.id)
    assert (found["kind"], found["reason"].partition(" in ")[0], found["replayable"]) == ("failed", "Reject", True)


def test_a_job_that_failed_is_kept_although_its_errback_cannot_be_sent(fresh: House) -> None:
    errback = {"task": "shop.apology", "args": [], "kwargs": {}, "options": {"serializer": "none"}}
    job = send(fresh, "tasks.ai.complete", kwargs={"prompt": SECRET, "model": ""}, link_error=errback)
    found = letter(fresh, job.id)
    assert (found["queue"], found["kind"], found["replayable"]) == ("ai", "failed", True)


# What tells that a job which had failed was given out once more.
@pytest.mark.parametrize("how", ["replayed", "redelivered"])
def test_a_job_that_succeeds_after_all_has_no_letter_any_more(fresh: House, how: str) -> None:
    job = complete(fresh, headers={"deaths": 3, "keywheel_alone": 2})
    fresh.producer.outcome(job)
    assert letter(fresh, job.id)
    job.forget()
    if how == "replayed":  # and whoever did it was killed before he took the letter out
        complete(fresh, task_id=job.id, headers={"keywheel_doubt_ms": 0})
    else:
        complete(fresh, task_id=job.id, delivery_info={"redelivered": True})
    eventually(lambda: not letters(fresh), what="the letter's end")
    assert fresh.producer.app.AsyncResult(job.id).state == "SUCCESS"


def test_an_email_that_was_sent_has_no_letter_of_a_copy_that_failed(fresh: House) -> None:
    fresh.sandbox.control("fault", service="resend", kind="validation_error", count=1)
    first = send(fresh, "tasks.email.send", kwargs=EMAIL)
    fresh.producer.outcome(first)
    assert letter(fresh, first.id)["kind"] == "failed"
    send(fresh, "tasks.email.send", kwargs=EMAIL, task_id=first.id)
    eventually(lambda: fresh.producer.app.AsyncResult(first.id).state == "SUCCESS", what="the copy's success")
    eventually(lambda: not letters(fresh), what="the letter's end")


def test_an_email_that_was_sent_gets_no_letter_by_a_copy_that_fails_later(fresh: House) -> None:
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    sent = fresh.producer.outcome(job)
    send(fresh, "tasks.email.send", kwargs=EMAIL | {"to": "nobody at all"}, task_id=job.id)
    eventually(lambda: f"{job.id} has succeeded already, by a copy" in fresh.worker.log, what="the copy's end")
    assert letters(fresh) == []
    assert fresh.producer.app.AsyncResult(job.id).result == sent


def test_a_job_that_has_succeeded_meanwhile_is_not_replayed(fresh: House) -> None:
    fresh.sandbox.control("fault", service="groq", status=400, count=1)
    job = complete(fresh)
    fresh.producer.outcome(job)
    assert letter(fresh, job.id)
    complete(fresh, task_id=job.id)  # for a completion nobody looks after a letter
    eventually(lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the copy's success")
    answer = fresh.producer.ask("tasks.admin.replay", id=job.id, force=True)
    reason = "it has succeeded: a copy of its message did not fail"
    assert answer == {"replayed": [], "refused": [{"id": job.id, "reason": reason}]}
    assert fresh.producer.app.AsyncResult(job.id).state == "SUCCESS"


def test_a_job_that_failed_does_not_run_again_when_only_its_acknowledgement_was_lost(fresh: House) -> None:
    client = fresh.producer.app.backend.client
    job = complete(fresh, queue="parked")
    message = json.loads(client.rpop("parked"))
    message["properties"]["delivery_info"]["routing_key"] = "ai"
    fresh.sandbox.control("fault", service="groq", status=400, count=1)
    client.lpush("ai", json.dumps(message))
    assert type(fresh.producer.outcome(job)).__name__ == "RequestRejected"
    before = letter(fresh, job.id)

    message["properties"]["delivery_info"]["redelivered"] = True
    client.lpush("ai", json.dumps(message))
    eventually(lambda: f"{job.id} has failed already" in fresh.worker.log, what="the second delivery's end")
    eventually(lambda: not client.hlen("unacked") and not client.llen("ai"), what="its acknowledgement")
    assert job.state == "FAILURE"
    assert letter(fresh, job.id) == before
    assert fresh.sandbox.ledger()["services"]["groq"]["calls"] == 1


def test_a_job_whose_failure_was_stored_ends_by_it_although_its_worker_died_before_the_letter(fresh: House) -> None:
    fresh.sandbox.control("fault", service="resend", kind="validation_error", count=1)
    job = send(fresh, "tasks.email.send", kwargs=EMAIL)
    first = fresh.producer.outcome(job)
    before = letter(fresh, job.id)
    client = fresh.producer.app.backend.client
    client.delete(*client.keys("{kw:dead}:*"))  # as if it had not come to that
    send(fresh, "tasks.email.send", kwargs=EMAIL, task_id=job.id, delivery_info={"redelivered": True})
    again = letter(fresh, job.id)
    assert (again["kind"], again["reason"], again["replayable"]) == (before["kind"], before["reason"], True)
    second = fresh.producer.app.AsyncResult(job.id).result
    assert (type(second).__name__, str(second)) == (type(first).__name__, str(first))
    assert fresh.sandbox.ledger()["services"]["resend"]["calls"] == 1
    # A person may still decide otherwise: a replay takes the failure out first.
    assert fresh.producer.ask("tasks.admin.replay", id=job.id)["replayed"] == [job.id]
    eventually(lambda: fresh.producer.app.AsyncResult(job.id).state == "SUCCESS", what="the replayed job's success")


# How a job ends that no letter can be written of for a while.
@pytest.mark.parametrize("how", ["failed", "expired", "timeout"])
def test_a_message_is_not_acknowledged_before_its_letter_is_there(fresh: House, how: str) -> None:
    client = fresh.producer.app.backend.client
    client.set("{kw:dead}:index", "no sorted set")  # so every letter is refused
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
    given_up = f"a dead letter could not be kept (TimeoutError): tasks.ai.complete[{job.id}]"
    eventually(lambda: given_up in fresh.worker.log, what="the end of the patience")
    client.delete("{kw:dead}:index")
    assert letter(fresh, job.id)["kind"] == how
    eventually(lambda: not client.hlen("unacked") and not client.llen("ai"), what="its acknowledgement")
    fresh.sandbox.control("clear", service="groq")
    assert fresh.producer.app.AsyncResult(job.id).state == ended
    assert fresh.sandbox.ledger()["services"]["groq"]["calls"] == (how != "expired")


def test_arguments_that_are_too_large_are_not_kept_but_their_letter_is(fresh: House) -> None:
    job = send(fresh, "tasks.ai.complete", kwargs={"prompt": "x" * 10_000_000, "model": ""})
    fresh.producer.outcome(job)
    found = letter(fresh, job.id)
    assert (found["replayable"], found["size"], found["note"]) == (False, 0, "its arguments were too large to be kept")
    answer = fresh.producer.ask("tasks.admin.replay", id=job.id)
    assert answer == {"replayed": [], "refused": [{"id": job.id, "reason": "its arguments were too large to be kept"}]}
    assert letter(fresh, job.id)


GOOD: list[Any] = [[], {"prompt": SECRET}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
COMPLETE = {"task": "tasks.ai.complete", "id": ""}

# What a stranger may put into the queue: body, content type, headers, and what the letter says.
STRANGE: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "no JSON": ("{" + SECRET, "application/json", COMPLETE, "cannot be read"),
    "pickle": (b"\x80\x04]\x94.", "application/x-python-serialize", COMPLETE, "is not accepted: only JSON is"),
    "another type": (SECRET, "text/x-canary", COMPLETE, "is not accepted: only JSON is"),
    "an unknown task": (json.dumps(GOOD), "application/json", {**COMPLETE, "task": "tasks.ai.sing"}, "no task of the"),
    "a later protocol": (json.dumps({"v": 9, "args": 1}), "application/json", COMPLETE, "its body is no list of"),
    "four parts": (json.dumps([*GOOD, {}]), "application/json", COMPLETE, "its body is no list of"),
    "arguments that are no list": (json.dumps(["x", {}, {}]), "application/json", COMPLETE, "must be a list"),
    "keywords that are no object": (json.dumps([[], [1], {}]), "application/json", COMPLETE, "must be a list"),
    "an id that is a list": (json.dumps(GOOD), "application/json", {**COMPLETE, "id": [1]}, "short texts"),
    "no id": (json.dumps(GOOD), "application/json", {"task": "tasks.ai.complete"}, "short texts"),
    "a task's name that is a list": (json.dumps(GOOD), "application/json", {**COMPLETE, "task": []}, "short texts"),
    "limits that are a text": (json.dumps(GOOD), "application/json", {**COMPLETE, "timelimit": "ab"}, "timelimit"),
    "an instant that is a text": (json.dumps(GOOD), "application/json", {**COMPLETE, "eta": "soon"}, "header eta"),
    "an instant that is no date": (json.dumps(GOOD), "application/json", {**COMPLETE, "eta": "12-12"}, "protocol"),
    "an instant out of any calendar": (
        json.dumps(GOOD), "application/json", {**COMPLETE, "eta": "0001-01-01T00:00:00+14:00"}, "its instant",
    ),
    "no job at all": (json.dumps([SECRET]), "application/json", {}, "is no Celery job"),
    "an object that is no job": (json.dumps({"hello": SECRET}), "application/json", {}, "is no Celery job"),
}  # fmt: skip


def test_the_queue_flows_on_after_every_message_that_is_no_job(fresh: House) -> None:
    jobs = {}
    for name, (body, content_type, headers, _) in STRANGE.items():
        if headers.get("id") == "":
            jobs[name] = str(uuid.uuid4())
            headers = headers | {"id": jobs[name]}  # noqa: PLW2901 - each run its own
        publish(fresh, body, content_type=content_type, **headers)
    assert fresh.producer.outcome(complete(fresh))["text"]
    found = eventually(
        lambda: len(told := letters(fresh, kind="poison")) == len(STRANGE) and told, what="a letter of each"
    )
    told = list(reversed(found))  # in the order in which they came
    for (name, (*_, reason)), one in zip(STRANGE.items(), told, strict=True):
        assert reason in one["reason"], (name, one["reason"])
        assert one["replayable"] == (name == "an unknown task"), name
        if name in jobs:
            assert one["id"] == jobs[name]
            outcome = fresh.producer.app.AsyncResult(jobs[name])
            eventually(outcome.ready, what=f"the caller's answer to {name}")
            assert outcome.state == "FAILURE"
            assert reason in str(outcome.result) or "tasks.ai.sing" in str(outcome.result), name
    assert SECRET not in json.dumps(found)
    assert SECRET not in fresh.worker.log
    assert fresh.worker.process.poll() is None
