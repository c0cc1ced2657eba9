"""What the endpoint for one job tells, and what it never does."""

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from config.current import get_settings
from tests.integration.dashboard.dashboard_site import LOGIN, Serve, Site, described
from worker.attempts import Attempt
from worker.deadletters import DeadLetter, DeadLetters, Message
from worker.errors import RequestRejected
from worker.jobs.history import History

SECRET = "canary-7711 of a prompt"


async def look(site: Site, job: str = "job-1") -> dict[str, Any]:
    answer = await site.client.get(f"/api/admin/jobs/{job}", auth=LOGIN)
    assert answer.status_code == 200, answer.text
    assert "canary" not in answer.text
    return dict(described(answer))


async def store_result(site: Site, status: str, result: Any, **more: Any) -> None:
    meta = {"status": status, "result": result, "task_id": "job-1"} | more
    await site.redis.set("celery-task-meta-job-1", json.dumps(meta))


async def test_a_job_that_nobody_has_seen_may_wait_or_not_exist(serve: Serve) -> None:
    site = await serve()
    told = await look(site)
    assert (told["state"], told["where"], told["calls"]) == ("PENDING", "queue", [])
    assert told["queue_empty_in_s"] is None
    assert (await site.client.get("/api/admin/jobs/a%20b", auth=LOGIN)).status_code == 404
    assert (await site.client.get("/api/admin/jobs/job-1")).status_code == 401
    page = await site.client.get("/keys/jobs/%3Cb%3E", auth=LOGIN)
    assert "<b>" not in page.text
    assert 'data-job-url="/api/admin/jobs/TASK"' in page.text


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
    told = await look(site)
    assert (told["where"], told["calls"]) == ("deferred", [call.as_json()])
    assert told["waits"] == {
        "kind": "key",
        "code": "rpd",
        "next_try_ms": now_ms + 60_000,
        "expected_end_ms": 1_796_083_200_000,
    }


async def test_a_job_that_runs_shows_what_flower_saw_of_it(serve: Serve) -> None:
    site = await serve()
    worker = SimpleNamespace(hostname="w1@host")
    site.app.events.state.tasks["job-1"] = SimpleNamespace(
        name="tasks.ai.complete", state="STARTED", received=5.0, started=6.5, worker=worker,
        kwargs=SECRET,
    )  # fmt: skip
    told = await look(site)
    assert (told["where"], told["task"], told["worker"]) == (
        "running",
        "tasks.ai.complete",
        "w1@host",
    )
    assert told["events"] == [
        {"at_ms": 5_000, "event": "received"},
        {"at_ms": 6_500, "event": "started"},
    ]


# How a job failed, and what is shown of its words: those of errors that are not ours may quote it.
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
    told = await look(site)
    assert (told["where"], told["error"], told["dead_letter"]) == ("ended", shown, None)
    call = {"at_ms": 5, "key": "gsk_abc123...", "code": "invalid_request", "in_doubt": False}
    letter = DeadLetter(
        "job-1", "tasks.ai.complete", "ai", "groq", "failed", "Why", attempts=(call,), worker="w1@h"
    )
    store = DeadLetters.of(site.redis, get_settings())
    await store.put(letter, Message(kwargs={"prompt": SECRET}).text())
    told = await look(site)
    assert (told["dead_letter"], told["error"], told["calls"]) == ("failed", "Why", [call])
    assert (told["task"], told["worker"]) == ("tasks.ai.complete", "w1@h")


async def test_a_job_that_succeeded_names_its_key_and_not_its_result(serve: Serve) -> None:
    site = await serve()
    result = {"key": "gsk_abc123...", "text": SECRET, "attempts": 2}
    await store_result(site, "SUCCESS", result)
    told = await look(site)
    assert (told["state"], told["where"], told["key"]) == ("SUCCESS", "ended", "gsk_abc123...")
