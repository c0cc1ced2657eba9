"""Emails as a user of the queue sees them.

They are sent once, however often they are enqueued, and in time or not at all.
"""

import time
from typing import Any

from tests.fleets import Stack
from tests.processes import Worker

ANN = "ann@example.com"


def judged(stack: Stack) -> dict[str, Any]:
    judgement: dict[str, Any] = stack.sandbox.ledger()["judgement"]
    return judgement


def test_a_second_job_with_the_same_idempotency_key_gets_the_first_ones_result(
    fresh: Stack,
) -> None:
    mail = {"to": ANN, "subject": "Invoice 1", "text": "Hello", "idempotency_key": "invoice-1"}
    first = fresh.producer.ask("tasks.email.send", **mail)
    second = fresh.producer.ask(
        "tasks.email.send", **mail, deadline_s=60
    )  # a deadline is not content
    assert (second["id"], second["key"], second["attempts"]) == (first["id"], first["key"], 0)
    other = fresh.producer.ask("tasks.email.send", **(mail | {"subject": "Invoice 2"}))
    assert (
        str(other)
        == "idempotency_key: was used for an email with different content within the last three "
        "days"
    )
    assert type(other).__name__ == "InvalidArguments"
    assert fresh.sandbox.ledger()["services"]["resend"]["calls"] == 1


def test_an_email_that_was_sent_is_known_although_no_key_has_a_from_address_any_more(
    fresh: Stack,
) -> None:
    mail = {"to": ANN, "subject": "Invoice 3", "text": "Hello", "idempotency_key": "invoice-3"}
    first = fresh.producer.ask("tasks.email.send", **mail)
    nameless = {
        name: value for name, value in fresh.environ.items() if not name.startswith("RESEND_FROM")
    }
    worker = Worker(fresh.folder, nameless, "-Q", "nameless", name="nameless")
    try:
        worker.await_ready()
        again = fresh.producer.outcome(fresh.producer.send("tasks.email.send", "nameless", **mail))
        assert again["id"] == first["id"]
        new = fresh.producer.outcome(
            fresh.producer.send(
                "tasks.email.send", "nameless", **(mail | {"idempotency_key": "invoice-4"})
            )
        )
        assert str(new).startswith("from: is required, because the settings name no from address")
    finally:
        worker.stop()
    assert judged(fresh)["emails_accepted"] == 1


def test_an_email_to_a_suppressed_address_succeeds_and_a_refused_one_fails_with_its_reason(
    fresh: Stack,
) -> None:
    mail = {"subject": "Dropped by Resend", "text": "Hello"}
    # Resend accepts it and returns an id; only its own pages report that it was suppressed.
    assert fresh.producer.ask("tasks.email.send", **mail, to="suppressed@resend.dev")["id"]
    fresh.sandbox.control("fault", service="resend", kind="validation_error", count=1)
    refused = fresh.producer.ask("tasks.email.send", **mail, to=ANN)
    assert type(refused).__name__ == "RequestRejected"
    assert str(refused).endswith("We found an error with one or more fields in the request.")


def test_a_message_that_is_delivered_twice_sends_one_email(fresh: Stack) -> None:
    mail = {"to": ANN, "subject": "Twice delivered", "text": "Hello"}
    sent = [
        fresh.producer.app.send_task(
            "tasks.email.send", kwargs=mail, queue="email", task_id="the-same-job"
        )
        for _ in range(3)
    ]
    first = fresh.producer.outcome(sent[0])
    again = fresh.producer.app.send_task(
        "tasks.email.send", kwargs=mail, queue="email", task_id="the-same-job"
    )
    assert fresh.producer.outcome(again)["id"] == first["id"]
    # The answer to this copy comes after those to the earlier copies.
    assert (
        fresh.producer.ask("tasks.email.send", **(mail | {"subject": "Another"}))["id"]
        != first["id"]
    )
    judgement = judged(fresh)
    assert (
        judgement["emails_accepted"],
        judgement["emails_accepted_twice"],
        judgement["content_accepted_twice"],
    ) == (2, 0, 0)


def test_a_crowd_of_emails_goes_out_in_batches_each_job_with_its_own_result(fresh: Stack) -> None:
    before = len(fresh.worker.log)
    arguments = [{"to": ANN, "subject": f"Crowd {n}", "text": "Hello"} for n in range(120)]
    # All emails are in the queue before the worker takes the first, however busy the machine.
    control = fresh.producer.app.control
    of_worker = {"destination": [fresh.worker.name], "reply": True, "timeout": 10, "limit": 1}
    assert "ok" in control.cancel_consumer("email", **of_worker)[0][fresh.worker.name]
    ids = fresh.producer.many("tasks.email.send", arguments)
    assert "ok" in control.add_consumer("email", **of_worker)[0][fresh.worker.name]
    ended = fresh.producer.await_all(ids, within_s=60)
    assert {meta["status"] for meta in ended.values()} == {"SUCCESS"}
    assert len({meta["result"]["id"] for meta in ended.values()}) == 120
    ledger = fresh.sandbox.ledger()
    assert ledger["judgement"]["emails_accepted"] == 120
    assert ledger["services"]["resend"]["calls"] < 60
    log = fresh.worker.log[before:]
    assert "emails go out in one call" in log
    assert "Traceback" not in log


def test_a_job_that_no_key_serves_before_its_own_deadline_fails(fresh: Stack) -> None:
    fresh.sandbox.control("exhaust", service="resend", seconds=40)
    mail = {"to": ANN, "subject": "In time or never", "text": "Hello"}
    late = fresh.producer.ask("tasks.email.send", **mail, deadline_s=0.5, within_s=40)
    assert type(late).__name__ == "DeadlineExceeded"
    assert str(late).startswith("no key was free within 0.5 s (")
    fresh.sandbox.control("fault", service="groq", status=502, count=3)
    late = fresh.producer.ask("tasks.ai.complete", prompt="x", deadline_s=0.05, within_s=40)
    assert type(late).__name__ == "DeadlineExceeded"
    assert str(late).startswith("no time is left for another try within 0.05 s (tries so far: 0): ")


def test_a_job_past_its_deadline_is_not_sent_although_a_key_is_free(fresh: Stack) -> None:
    past = {
        "since_ms": round((time.time() - 61) * 1000),
        "deferrals": 2,
        "deferred": True,
        "reason": "rate_limit",
    }
    kwargs = {"to": ANN, "subject": "Nobody waits for it", "text": "Hello", "deadline_s": 60}
    job = fresh.producer.app.send_task(
        "tasks.email.send", kwargs=kwargs, queue="email", headers={"keywheel": past}
    )
    late = fresh.producer.outcome(job)
    assert type(late).__name__ == "DeadlineExceeded"
    assert str(late) == "no key was free within 60 s (2 deferrals): rate_limit"
    assert fresh.sandbox.ledger()["services"]["resend"]["calls"] == 0
