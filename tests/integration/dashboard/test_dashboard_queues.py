"""The page's figures for queues: waiting, deferred and held jobs, and their age."""

import asyncio
import json
import re
import ssl
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import pytest
from flower.utils.broker import Broker

from config.current import get_settings
from tests.integration.dashboard.dashboard_site import (
    LOGIN,
    PREFIX,
    Serve,
    described,
    until,
)
from worker.dashboard.queues import QueueWatch
from worker.errors import Deferred
from worker.hooks.backpressure import QueuePauser
from worker.jobs.history import History
from worker.jobs.rescheduling import waits_of


async def test_jobs_in_the_broker_are_counted(serve: Serve) -> None:
    site = await serve()
    await site.redis.lpush("ai", *["{}"] * 3)
    await site.redis.lpush("ai.deferred", "{}")
    await site.redis.zadd(
        "ai.deferred\x06\x169.due", {"job-1": 9e15}
    )  # Redis keeps it until it is due
    began_ms = round(time.time() * 1000) - 390_000
    await site.redis.hset(
        "ai.deferred.due.texts", "job-1", json.dumps({"headers": History(began_ms).headers()})
    )
    await site.redis.lpush("ai\x06\x166", "{}")  # a job of a higher priority
    await site.redis.zadd("ai.tenants", {"a-tenant": 7})
    await site.redis.lpush("ai.tenant.a-tenant", "99 tag-1@0", "99 tag-2@0")
    # Fields that programs read beside the job's result are shown here as well.
    waits = waits_of(Deferred(80_000_000, "epd", ends_in_ms=80_000_000), 450)
    await site.redis.set("celery-task-meta-job-1", json.dumps({"status": "RETRY", "waits": waits}))

    async def groq_queue() -> Any:
        return (await site.status())["services"]["groq"]["queue"]

    await until(groq_queue, lambda queue: queue["oldest_bulk_s"] > 300 and queue["oldest_s"] > 0)
    assert (await groq_queue())["oldest_s"] < 300
    queue = described(await site.client.get(f"{PREFIX}/status", auth=LOGIN))["services"]["groq"][
        "queue"
    ]
    [job] = queue["deferred_jobs"]
    ends_ms = job.pop("expected_end_ms")
    assert job == {"id": "job-1", "next_try_ms": 9 * 10**12, "kind": "key", "code": "epd"}
    assert ends_ms == pytest.approx(time.time() * 1000 + 80_000_000, abs=60_000)
    assert (queue["ready"], queue["deferred"], queue["waiting"]) == (6, 2, 8)
    site.app.workers["w"] = {"active_queues": [{"name": "ai"}, {"name": "ai.deferred"}]}
    lengths = await site.client.get("/api/queues/length", auth=LOGIN)
    assert lengths.json()["active_queues"] == [
        {"name": "ai", "messages": 6},
        {"name": "ai.deferred", "messages": 2},
    ]
    assert queue["drain_s"] is None  # no job is served
    assert (await site.status())["services"]["resend"]["queue"]["drain_s"] == 0


async def test_the_deferred_jobs_that_return_first_and_last_are_shown_also_without_a_result(
    serve: Serve,
) -> None:
    site = await serve()
    ahead_us = (time.time() + 3600) * 1e6
    due = {f"job-{number}": ahead_us + number * 1e6 for number in range(40)}
    await site.redis.zadd("email.deferred.due", due | {"woken": 5})
    await site.redis.set("celery-task-meta-job-0", "no JSON")
    await site.redis.set(
        "celery-task-meta-job-1", '{"status": "RETRY", "waits": ["of another version"]}'
    )

    async def jobs() -> Any:
        status = described(await site.client.get(f"{PREFIX}/status", auth=LOGIN))
        return status["services"]["resend"]["queue"]["deferred_jobs"]

    deferred = await until(jobs, bool)
    expected = ["woken", *(f"job-{number}" for number in (*range(9), *range(35, 40)))]
    assert [job["id"] for job in deferred] == expected
    assert {job["kind"] + job["code"] for job in deferred} == {""}
    assert deferred[0]["next_try_ms"] == pytest.approx(time.time() * 1000, abs=60_000), (
        "a job that was due long ago counts as due now"
    )


# The URL, the waiting jobs by queue, and the jobs that Flower's Broker page counts.
@pytest.mark.parametrize("query", ["", "?db=3", "?socket_timeout=5&db=3"])
async def test_flowers_broker_page_takes_every_url_that_workers_take(
    serve: Serve, redis_url: str, query: str
) -> None:
    site = await serve(environ={"REDIS_URL": redis_url + query})
    await site.redis.lpush("ai", *["{}"] * 7)  # in the database that the URL names
    site.app.workers["w"] = {"active_queues": [{"name": "ai"}]}
    lengths = await site.client.get("/api/queues/length", auth=LOGIN)
    assert {"name": "ai", "messages": 7} in lengths.json()["active_queues"]
    page = await site.client.get("/broker", auth=LOGIN)
    assert re.search(r">\s*7\s*<", page.text)


async def test_flowers_broker_page_checks_the_certificate_that_the_url_names(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await serve()
    url = f"rediss://127.0.0.1:6390/0?ssl_cert_reqs=required&ssl_ca_certs={certifi.where()}"
    monkeypatch.setenv("REDIS_URL", url)
    get_settings.cache_clear()
    client = Broker(url, broker_options={}, broker_use_ssl=None).redis
    connection = client.connection_pool.make_connection()
    assert connection.ssl_context.ca_certs == certifi.where()
    assert connection.ssl_context.cert_reqs is ssl.CERT_REQUIRED
    await client.aclose()


async def test_workers_are_asked_for_an_answer_and_those_without_ours_are_left_out(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve()
    answer = {"backpressure": {"paused": []}, "clock_skew_s": 1.5}

    def broadcast(command: str, *, reply: bool, **_: Any) -> list[Any] | None:
        assert command == "stats"
        return [{"w1@a": answer}, {"w2@a": {"pool": {}}}] if reply else None

    monkeypatch.setattr(site.app.capp.control, "broadcast", broadcast)
    watch = QueueWatch(site.app.capp, ("ai",))
    assert watch._poll_workers(None, None) == [{"paused": [], "clock_skew_s": 1.5}]


async def test_jobs_that_wait_in_workers_count_and_paused_workers_are_shown(serve: Serve) -> None:
    site = await serve()
    consumer = SimpleNamespace(pool=None, timer=SimpleNamespace(schedule=SimpleNamespace(queue=[])))
    stats = QueuePauser(consumer).info(consumer)
    idle = stats["backpressure"]
    assert {"paused", "waiting", "held"} <= set(idle), (
        "the endpoint reads the fields that a worker reports"
    )
    busy = {"paused": ["ai"], "waiting": {"ai": 7, "email": 1}, "held": {"ai": 2}}
    behind = busy | {"clock_skew_s": -3.5}
    site.app.poller._watch._workers = [idle | {"waiting": {}}, busy, behind]

    async def queue() -> Any:
        return (await site.status())["services"]["groq"]["queue"]

    view = await until(queue, lambda queue: queue["workers"] == 3)
    assert (view["held"], view["waiting"], view["paused_workers"], view["paused"]) == (
        18,
        18,
        2,
        "some",
    )
    assert view["clock_skew_s"] == 3.5


async def test_the_oldest_job_is_as_old_as_it_is_also_when_it_was_deferred(serve: Serve) -> None:
    site = await serve()
    look = site.app.poller._watch.poll  # from here on by hand, with the test's clock
    await asyncio.to_thread(site.app.poller.stop)
    site.app.poller._watch._ages.clear()
    now_s = 1_000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now_s)
        # After a slow search, as on a busy machine, the next searches are left out.
        patch.setattr(time, "perf_counter", lambda: now_s)
        seen = {}
        for step in range(12):  # a job comes every 10 s; from the middle on, one is taken each time
            if step < 11:
                await site.redis.lpush("ai", f'{{"job": {step}}}')
            if step == 6:
                await site.redis.lpush("email.deferred", "{}")
            if step >= 6:
                await site.redis.rpop("ai")
            queues = look()
            seen[step] = round(queues["ai"].oldest_s), round(queues["email"].oldest_s)
            now_s += 10
    # The oldest job of step 6 is the second one, which came at step 1.
    assert seen == {
        0: (0, 0), 1: (10, 0), 2: (20, 0), 3: (30, 0), 4: (40, 0), 5: (50, 0),
        6: (50, 0), 7: (50, 10), 8: (50, 20), 9: (50, 30), 10: (50, 40), 11: (50, 50),
    }  # fmt: skip
