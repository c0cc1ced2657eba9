"""Our tasks read a job's arguments and headers, and pass them on."""

import time
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Task

from tasks import ai, email
from worker.jobs.history import DIED_S, DOUBT
from worker.runtime import Runtime

MAIL = {"from": "a@b.example", "to": "c@d.example", "subject": "x", "text": "y"}
HOUR_S = 3_600


def hours_ago(hours: float) -> float:
    return time.time() - hours * HOUR_S


async def run(task: Task, *, job: str = "job-1", **request: Any) -> Any:
    """Run a task as a worker would: with the context of its request, on the loop."""
    kwargs = request.pop("kwargs")
    task.push_request(id=job, **{"retries": 0, "headers": None, "delivery_info": {}} | request)
    try:
        return await task.run(**kwargs)
    finally:
        task.pop_request()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments with which each task calls `serve`."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    async def serve(*args: Any, **options: Any) -> dict[str, Any]:
        calls.append((args, options))
        return {"text": "hello"}

    services = {"groq": SimpleNamespace(models=("first", "second"))}
    runtime = SimpleNamespace(
        pools={"resend": SimpleNamespace(keys=())}, settings=SimpleNamespace(services=services)
    )
    monkeypatch.setattr(Runtime, "current", lambda: runtime)
    monkeypatch.setattr(ai, "serve", serve)
    monkeypatch.setattr(email, "serve", serve)
    return calls


# The request and the email's own arguments, and whether the job may have sent the email before.
@pytest.mark.parametrize(
    ("request_", "arguments", "known"),
    [
        ({}, {}, False),
        ({}, {"idempotency_key": "order-7"}, True),
        ({"retries": 1}, {}, True),
        ({"headers": {"keywheel": {"attempts": 1}}}, {}, True),
        ({"headers": {"keywheel": {"attempts": 0}}}, {}, False),
        ({"headers": {DOUBT: 5}}, {}, True),
        ({"headers": {DIED_S: 5}}, {}, True),
        ({"headers": {"deaths": 1}}, {}, True),
        ({"delivery_info": {"redelivered": True}}, {}, True),
        ({"delivery_info": {"redelivered": False}}, {}, False),
    ],
)
async def test_the_store_is_asked_about_an_email_that_may_have_been_sent_before(
    served: list[Any], request_: dict[str, Any], arguments: dict[str, Any], *, known: bool
) -> None:
    await run(email.send, kwargs=MAIL | arguments, **request_)
    [((_, _, order), _)] = served
    assert order.known is known


# Resend keeps an idempotency key for 24 hours, and the store an unfinished send for 73.
@pytest.mark.parametrize(
    ("doubt_h", "died_h", "late"),
    [
        (None, None, False),
        (22.9, None, False),
        (23.1, None, True),
        (None, 71.9, False),
        (None, 72.1, True),
        (1, 72.1, True),
    ],
)
async def test_an_earlier_attempt_is_forgotten_after_a_time(
    served: list[Any], doubt_h: float | None, died_h: float | None, *, late: bool
) -> None:
    doubt = {} if doubt_h is None else {DOUBT: round(hours_ago(doubt_h) * 1000)}
    died = {} if died_h is None else {DIED_S: hours_ago(died_h)}
    await run(email.send, kwargs=MAIL, headers=doubt | died)
    [((_, _, order), _)] = served
    assert order.late is late


async def test_an_email_is_served_under_its_jobs_id_with_its_deadline(served: list[Any]) -> None:
    await run(email.send, kwargs=MAIL | {"deadline_s": 60.0, "dedupe_key": "one"}, job="job-7")
    [((task, lease_request, order), options)] = served
    assert task.name == "tasks.email.send"
    assert (lease_request.emails, lease_request.resource) == (1, "b.example")
    assert (order.idempotency_key, order.job) == ("job-7", "job-7")
    assert options == {"deadline_s": 60.0, "dedupe_key": "one"}


async def test_a_completion_says_what_it_needs_of_a_key(served: list[Any]) -> None:
    arguments = {"prompt": "Say hello", "max_completion_tokens": 100, "deadline_s": 60.0}
    await run(ai.complete, kwargs=arguments | {"dedupe_key": "one"})
    [((task, lease_request, build), options)] = served
    assert task.name == "tasks.ai.complete"
    assert lease_request.models == (("first", "first"), ("second", "second"))
    assert lease_request.output_tokens == 100
    assert lease_request.input_tokens > 0
    assert lease_request.tokens == lease_request.input_tokens + 100
    assert not lease_request.flexible, "the caller set a cap"
    assert options == {"deadline_s": 60.0, "dedupe_key": "one", "on_shared": None}
    lease = SimpleNamespace(request=lease_request.taking(1), capped=False)
    assert build(lease).model == "second"


async def test_an_answer_without_a_cap_may_be_capped_by_the_pool(served: list[Any]) -> None:
    await run(ai.complete, kwargs={"prompt": "Say hello", "models": ["other"]})
    [((_, lease_request, build), _)] = served
    assert lease_request.models == (("other", "other"),)
    assert lease_request.flexible
    reserved = lease_request.reserving(7)
    for capped, cap in ((True, 7), (False, None)):
        lease = SimpleNamespace(request=reserved, capped=capped)
        assert build(lease).params.get("max_completion_tokens") == cap


@pytest.mark.parametrize(
    ("kwargs", "models"),
    [
        ({}, ("first", "second")),
        ({"model": "a"}, ("a",)),
        ({"models": "a"}, ("a",)),
        ({"models": ["a", "b", "a", 7]}, ("a", "b", "7")),
        ({"models": ["a"], "model": "b"}, ("a",)),
        ({"models": [], "model": "b"}, ("b",)),
        ({"model": 7}, ("first", "second")),
    ],
)
def test_the_models_of_a_job_in_the_queue_are_those_that_it_names(
    monkeypatch: pytest.MonkeyPatch, kwargs: dict[str, Any], models: tuple[str, ...]
) -> None:
    services = {"groq": SimpleNamespace(models=("first", "second"))}
    monkeypatch.setattr(ai, "get_settings", lambda: SimpleNamespace(services=services))
    assert ai._resources_of(kwargs) == models


async def test_a_streamed_answer_is_written_to_the_stream_of_its_job(
    served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []
    stream = SimpleNamespace(repeat="repeat", calling=lambda: steps.append("calling"))

    @asynccontextmanager
    async def answer_stream(streams: str, request: Any) -> Any:
        steps.append((streams, request.id))
        yield stream
        steps.append("closed")

    async def finish_stream(finished: Any, result: Any) -> None:
        steps.append((finished is stream, result))

    monkeypatch.setattr(Runtime.current(), "streams", "the streams", raising=False)
    monkeypatch.setattr(ai, "answer_stream", answer_stream)
    monkeypatch.setattr(ai, "finish_stream", finish_stream)
    result = await run(ai.complete, kwargs={"prompt": "hi", "stream": True}, job="job-9")
    assert result == {"text": "hello"}
    assert steps == [("the streams", "job-9"), (True, {"text": "hello"}), "closed"]
    [((_, lease_request, build), options)] = served
    assert options["on_shared"] == "repeat"
    completion = build(SimpleNamespace(request=lease_request, capped=False))
    assert completion.listener is stream
    assert steps[-1] == "calling"
    await run(ai.complete, kwargs={"prompt": "hi", "stream": False})
    assert len(steps) == 4, "this answer is not streamed"
