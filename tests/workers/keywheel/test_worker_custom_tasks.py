"""Tasks of the user's own in our worker: their calls draw keys, and their jobs wait for them."""

from typing import Any

import pytest
from celery import Signature, states
from celery.result import AsyncResult

from tests.fleets import Stack
from tests.processes import eventually

JOBS = "tests.workers.keywheel.custom_jobs"


def send(stack: Stack, task: str, *args: str, module: str = JOBS) -> AsyncResult[Any]:
    return stack.producer.app.send_task(f"{module}.{task}", args, queue="jobs")


def calls(stack: Stack, service: str) -> list[dict[str, Any]]:
    ledger = stack.sandbox.ledger(full=True)["calls"]
    return [call for call in ledger if call["service"] == service]


def test_a_job_that_runs_again_pays_for_no_step_twice_and_sends_one_email(fresh: Stack) -> None:
    job = send(fresh, "letter", "one job")
    assert job.get(timeout=30)["email"]
    assert len(calls(fresh, "groq")) == 3
    assert [len(copies) for copies in fresh.sandbox.mail().values()] == [1]


def test_emails_of_a_job_keep_their_keys_whatever_order_they_come_in(fresh: Stack) -> None:
    assert send(fresh, "two_letters", "two people").get(timeout=30) == 2
    assert [len(copies) for copies in fresh.sandbox.mail().values()] == [2]


def test_an_email_that_may_have_been_accepted_keeps_its_key_in_the_task(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="resend", kind="reset_after", count=1)
    assert send(fresh, "steadfast", "in doubt").get(timeout=60)
    assert [len(copies) for copies in fresh.sandbox.mail().values()] == [1]


def test_calls_of_one_step_at_the_same_time_run_it_once(fresh: Stack) -> None:
    assert len(set(send(fresh, "steps_at_once", "four").get(timeout=30))) == 1
    assert len(calls(fresh, "groq")) == 1


def test_a_plain_function_draws_keys_from_its_thread(fresh: Stack) -> None:
    assert send(fresh, "plain", "plain").get(timeout=30)["email"]
    assert len(calls(fresh, "groq")) == 1


def test_a_plain_function_pays_for_no_step_twice(fresh: Stack) -> None:
    done = send(fresh, "plain_letter", "plain steps").get(timeout=30)
    assert done["texts"] == [done["again"]]
    assert len(calls(fresh, "groq")) == 1


@pytest.mark.parametrize("task", ["letter", "plain"])
def test_a_job_without_a_free_key_is_deferred_and_runs_later(fresh: Stack, task: str) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=9)
    job = send(fresh, task, f"deferred {task}")
    eventually(lambda: job.state == states.RETRY, what="the job waits as RETRY")
    assert job.get(timeout=60)["email"]
    assert [len(copies) for copies in fresh.sandbox.mail().values()] == [1]


@pytest.mark.parametrize("task", ["mailed", "mailed_plain"])
def test_a_job_of_several_items_is_deferred_and_sends_the_email_of_each_once(
    fresh: Stack, task: str
) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=9)
    items = {"task": Signature(f"{JOBS}.{task}"), "it": [f"{task} {topic}" for topic in "ab"]}
    job = fresh.producer.app.send_task("celery.map", kwargs=items, queue="jobs")
    eventually(lambda: job.state == states.RETRY, what="the job waits as RETRY")
    assert job.get(timeout=60) == [f"A letter about {topic}" for topic in items["it"]]
    assert fresh.sandbox.mail().keys() == set(items["it"])
    assert [len(copies) for copies in fresh.sandbox.mail().values()] == [1, 1]


def test_a_job_may_wait_in_place_or_go_on_without_an_answer(fresh: Stack) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=9)
    patient, careful = send(fresh, "patient", "in place"), send(fresh, "careful", "without")
    grouped = send(fresh, "grouped", "child tasks")
    assert careful.get(timeout=30) == "no answer: APIConnectionError"
    assert not patient.ready()
    eventually(lambda: grouped.state == states.RETRY, what="the job of child tasks goes back")
    assert patient.get(timeout=60)
    assert grouped.get(timeout=60) == 2


@pytest.mark.parametrize("task", ["hurried", "insistent"])
def test_a_time_limit_keeps_its_name_behind_the_error_of_the_sdk(fresh: Stack, task: str) -> None:
    """This holds also if the SDK takes it for an error and tries again."""
    fresh.sandbox.control("fault", service="groq", kind="hang", hang_s=30, count=1)
    job = send(fresh, task, "late")
    with pytest.raises(Exception, match="SoftTimeLimit") as late:
        job.get(timeout=30)
    assert type(late.value).__name__ == "SoftTimeLimitExceeded", late.value


@pytest.mark.parametrize("task", ["overlong", "forgetful"])
def test_work_that_outlives_its_job_makes_no_call(fresh: Stack, task: str) -> None:
    job, client = send(fresh, task, "too late"), fresh.producer.app.backend.client
    late = eventually(lambda: client.get(f"late:{job.id}"), what="the end of the late call")
    assert b"its job has ended" in late
    assert calls(fresh, "groq") == []


def test_a_prompt_that_a_provider_quotes_in_its_error_is_not_kept(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="groq", kind="json_validate_failed", count=1)
    job = send(fresh, "refused", "my secret prompt")
    eventually(lambda: job.state == states.FAILURE, what="the failure")
    kept = fresh.producer.app.backend.client.get(f"celery-task-meta-{job.id}").decode()
    assert "Error code: 400 - json_validate_failed (the answer is not shown)" in kept
    assert "my secret prompt" not in kept + fresh.worker.log


def test_a_wrong_argument_fails_the_job_with_its_sentence(fresh: Stack) -> None:
    job = send(fresh, "wrong")
    with pytest.raises(Exception, match="is not an email address"):
        job.get(timeout=30)
    assert job.state == states.FAILURE


def test_the_application_of_the_docs_works(fresh: Stack) -> None:
    assert send(fresh, "write", "a complaint", module="myapp.jobs").get(timeout=30)
    assert list(fresh.sandbox.mail()) == ["a complaint"]
