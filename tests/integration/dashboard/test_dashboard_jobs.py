"""The endpoint for one job: what it shows, and what it never shows."""

import base64
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from config.current import get_settings
from tests.integration.dashboard.dashboard_site import LOGIN, Serve, Site, described, until
from worker.attempts import Attempt
from worker.deadletters import DeadLetter, DeadLetters, Message
from worker.errors import RequestRejected
from worker.jobs.history import History
from worker.keypool import Lease, LeaseRequest
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict

SECRET = "canary-7711 of a prompt"


async def look(site: Site, job: str = "job-1") -> dict[str, Any]:
    answer = await site.client.get(f"/api/admin/jobs/{job}", auth=LOGIN)
    assert answer.status_code == 200, answer.text
    assert "canary" not in answer.text
    return dict(described(answer))


async def store_result(site: Site, status: str, result: Any, **more: Any) -> None:
    meta = {"status": status, "result": result, "task_id": "job-1"} | more
    await site.redis.set("celery-task-meta-job-1", json.dumps(meta))


async def test_an_unseen_job_may_wait_or_not_exist(serve: Serve) -> None:
    site = await serve()
    view = await look(site)
    assert (view["state"], view["where"], view["calls"]) == ("PENDING", "queue", [])
    assert (view["place"], view["expected_start_ms"], view["start_by_ms"]) == (None, None, None)
    assert (await site.client.get("/api/admin/jobs/a%20b", auth=LOGIN)).status_code == 404
    assert (await site.client.get("/api/admin/jobs/job-1")).status_code == 401
    page = await site.client.get("/keys/jobs/%3Cb%3E", auth=LOGIN)
    assert "<b>" not in page.text
    # A browser repeats the login of a page for the addresses below it, but for no others.
    assert 'data-job-url="/keys/jobs/TASK/look"' in page.text
    assert 'data-cancel-url="/keys/jobs/TASK/cancel"' in page.text
    beneath = await site.client.get("/keys/jobs/job-1/look", auth=LOGIN)
    assert beneath.json() | {"now_ms": 0} == view | {"now_ms": 0}
    assert (await site.client.get("/keys/jobs/job-1/look")).status_code == 401
    assert abs(view["now_ms"] - time.time() * 1000) < 60_000


async def test_a_deferred_job_says_why_until_when_and_which_calls_it_made(serve: Serve) -> None:
    site = await serve()
    now_ms = round(time.time() * 1000)
    call = Attempt(now_ms, "gsk_abc123...", "rate_limit")
    headers = History(now_ms, attempts=1, trail=(call,)).headers()
    message = {"headers": headers, "body": SECRET}
    await site.redis.zadd("ai.deferred.due", {"job-1": (now_ms + 60_000) * 1000})
    await site.redis.hset("ai.deferred.due.texts", "job-1", json.dumps(message))
    waits = {"kind": "key", "code": "rpd", "expected_end": "2026-12-01T00:00:00+00:00"}
    await store_result(site, "RETRY", None, waits=waits)
    view = await look(site)
    assert (view["where"], view["calls"]) == ("deferred", [call.as_json()])
    assert view["waits"] == {
        "kind": "key",
        "code": "rpd",
        "next_try_ms": now_ms + 60_000,
        "expected_end_ms": 1_796_083_200_000,
    }


async def test_a_job_in_its_queue_says_its_place_and_when_it_will_be_served(serve: Serve) -> None:
    site = await serve(groq=1)
    pool, model = site.pools["groq"], "openai/gpt-oss-120b"
    lease = await pool.acquire(LeaseRequest(model=model, resource=model, by="job-0", tokens=100))
    assert isinstance(lease, Lease)
    limits = (ObservedLimit(Dimension.RPM, 60, 0),)
    await pool.settle(lease, Verdict(Fate.DONE, "ok", status=200, limits=limits))
    call = Attempt(5, "gsk_abc123...", "rate_limit")
    headers = History(5, trail=(call,)).headers() | {"id": "job-1", "task": "tasks.ai.complete"}
    body = base64.b64encode(json.dumps([[], {"prompt": SECRET}, {}]).encode()).decode()
    for message in (*[{"headers": {"id": "other"}}] * 30, {"headers": headers, "body": body}):
        await site.redis.lpush("ai", json.dumps(message))
    # If the job was deferred and has come back, the result store still has the end of its wait.
    waits = {"kind": "key", "code": "rpm", "next_try": "2026-01-01T00:00:00+00:00"}
    await store_result(site, "RETRY", None, waits=waits)

    def in_s(seen: dict[str, Any]) -> float:
        return (seen["expected_start_ms"] or 0) / 1000 - time.time()

    # Flower reads the pool once a second, and may not have seen the limit yet.
    view = await until(lambda: look(site), lambda seen: in_s(seen) > 1)
    assert (view["where"], view["place"], view["task"]) == ("queue", 31, "tasks.ai.complete")
    assert view["calls"] == [call.as_json()]
    assert in_s(view) <= 31.5, "the keys serve one job a second"
    assert view["start_by_ms"] > view["expected_start_ms"]
    assert view["limited_by"] == "rpm"
    await pool.disable(None, by="ada")
    view = await until(lambda: look(site), lambda seen: seen["expected_start_ms"] is None)
    assert (view["place"], view["limited_by"]) == (31, "paused")
    # The call of another job, which has ended, is recognised by its key.
    await site.redis.set(
        "celery-task-meta-job-0", json.dumps({"status": "SUCCESS", "result": None})
    )
    [found] = (await look(site, "job-0"))["calls"]
    assert (found["key"], found["code"]) == (site.keys["groq"][0].label, "ok")


@pytest.mark.parametrize(
    ("task", "queue"), [("tasks.email.send", "email"), ("tasks.ai.complete", "ai")]
)
async def test_a_job_that_waits_while_keys_are_free_starts_at_once(
    serve: Serve, task: str, queue: str
) -> None:
    """This holds also if the job names no model, or if its service has no models."""
    site = await serve()
    message = {"headers": {"id": "job-1", "task": task}}  # without a body, which would name a model
    await site.redis.lpush(queue, json.dumps(message))
    # Flower may not have read the pools yet.
    view = await until(lambda: look(site), lambda seen: seen["expected_start_ms"] is not None)
    assert (view["where"], view["place"], view["task"]) == ("queue", 1, task)
    assert view["limited_by"] == ""


async def test_a_job_that_runs_shows_what_flower_saw_of_it(serve: Serve) -> None:
    site = await serve()
    worker = SimpleNamespace(hostname="w1@host")
    site.app.events.state.tasks["job-1"] = SimpleNamespace(
        name="tasks.ai.complete", state="STARTED", received=5.0, started=6.5, worker=worker,
        kwargs=SECRET,
    )  # fmt: skip
    view = await look(site)
    assert (view["where"], view["task"], view["worker"]) == (
        "running",
        "tasks.ai.complete",
        "w1@host",
    )
    assert view["events"] == [
        {"at_ms": 5_000, "event": "received"},
        {"at_ms": 6_500, "event": "started"},
    ]


# How a job failed, and the shown part of its message: other libraries' errors may quote the prompt.
@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RequestRejected("no such voice"), "RequestRejected: no such voice"),
        (ValueError(SECRET), "ValueError"),
    ],
)
async def test_a_job_that_failed_says_why(serve: Serve, error: Exception, shown: str) -> None:
    site = await serve()
    failed = site.app.capp.backend.prepare_exception(error)
    await store_result(site, "FAILURE", failed)
    view = await look(site)
    assert (view["where"], view["error"], view["dead_letter"]) == ("ended", shown, None)
    call = {"at_ms": 5, "key": "gsk_abc123...", "code": "invalid_request", "in_doubt": False}
    letter = DeadLetter(
        "job-1", "tasks.ai.complete", "ai", "groq", "failed", "Why", attempts=(call,), worker="w1@h"
    )
    store = DeadLetters.of(site.redis, get_settings())
    await store.put(letter, Message(kwargs={"prompt": SECRET}).text())
    view = await look(site)
    assert (view["dead_letter"], view["error"], view["calls"]) == ("failed", "Why", [call])
    assert (view["task"], view["worker"]) == ("tasks.ai.complete", "w1@h")


async def test_a_job_that_succeeded_names_its_key_and_not_its_result(serve: Serve) -> None:
    site = await serve()
    result = {"key": "gsk_abc123...", "text": SECRET, "attempts": 2}
    await store_result(site, "SUCCESS", result)
    view = await look(site)
    assert (view["state"], view["where"], view["key"]) == ("SUCCESS", "ended", "gsk_abc123...")
    assert view["attempts"] == 2


@pytest.mark.parametrize(
    "stored",
    [
        b"\x80\x04N.",  # a pickle
        "not JSON",
        "[]",
        "null",
        "{}",
        '{"status": ["SUCCESS"]}',
        '{"status": "FAILURE", "result": "no error"}',
        '{"status": "FAILURE", "result": {"exc_type": "system", "exc_module": "os"}}',
        '{"status": "SUCCESS", "result": {"__type__": "datetime", "__value__": "never"}}',
    ],
)
async def test_a_job_with_an_unreadable_result_is_shown_and_can_be_cancelled(
    serve: Serve, stored: bytes | str
) -> None:
    site = await serve(groq=1)
    await site.redis.set("celery-task-meta-job-1", stored)
    assert (await look(site))["state"] == "PENDING"
    done = await site.client.post("/api/admin/jobs/job-1/cancel", auth=LOGIN, json={})
    assert (done.status_code, done.json().get("outcome")) == (200, "cancelled")
    assert await site.redis.get("kw:cancelled:job-1")
