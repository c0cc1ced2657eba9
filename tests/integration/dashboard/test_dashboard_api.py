"""What the admin endpoints show, and to whom, held against `docs/openapi.yaml`."""

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
from jsonschema import Draft202012Validator
from tornado.web import create_signed_value

from config.errors import SettingsError
from config.settings import get_settings
from sandbox.redis import EmbeddedRedis
from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    OPENAPI,
    PREFIX,
    TOKEN,
    Serve,
    described,
    post,
    secret,
    until,
)
from worker.dashboard import poller
from worker.dashboard.application import HANDLERS
from worker.dashboard.page import version
from worker.dashboard.request_body import MAX_BODY_BYTES
from worker.errors import Deferred
from worker.hooks.backpressure import QueuePauser
from worker.jobs.history import History
from worker.jobs.rescheduling import waits_of
from worker.keypool import Lease, LeaseRequest
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict


def test_the_description_names_every_address_and_the_limit_of_a_body() -> None:
    served = {
        one.regex.pattern.rstrip("$").replace("([^/]+)", "{job}")
        for one in HANDLERS
        if one.name and one.name.startswith(("keys-", "dead-letters", "jobs-"))
    }
    assert set(OPENAPI["paths"]) == served
    assert str(MAX_BODY_BYTES) in OPENAPI["components"]["responses"]["TooLarge"]["description"]
    for schema in OPENAPI["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("count", [0, 1, 10])
async def test_the_status_shows_every_key_and_no_secret(serve: Serve, count: int) -> None:
    site = await serve(groq=count, resend=count)
    await site.app.poller.fresh_state(force=True)
    answer = await site.client.get(f"{PREFIX}/status", auth=LOGIN)
    told = described(answer)
    for service in ("groq", "resend"):
        assert len(told["services"][service]["keys"]) == count
        assert not [
            number for number in range(1, count + 1) if secret(service, number) in answer.text
        ]
        assert told["services"][service]["queue"]["paused"] == "unknown"  # no worker runs here
    assert TOKEN not in answer.text
    assert LOGIN[1] not in answer.text


async def test_whatever_can_be_wrong_with_a_key_is_described(serve: Serve) -> None:
    site = await serve(groq=4)
    pool = site.pools["groq"]
    await site.disable("groq", 3)
    limits = (ObservedLimit(Dimension.TPM, 8_000, 7_000), ObservedLimit(Dimension.RPD, 1_000))
    rest: dict[str, Any] = {"fate": Fate.NEXT_KEY, "effect": Effect.COOL, "cooldown_ms": 9_000}
    for verdict in (
        Verdict(
            **rest,
            code="rate_limit",
            scope=Scope.ACCOUNT_MODEL,
            sized=True,
            status=429,
            limits=limits,
        ),
        Verdict(**rest, code="spend_limit", scope=Scope.ACCOUNT, status=400, account="acme"),
        Verdict(
            Fate.NEXT_KEY,
            "model_blocked",
            effect=Effect.DISABLE,
            scope=Scope.KEY_RESOURCE,
            status=403,
        ),
    ):
        lease = await pool.acquire(LeaseRequest(model="m", resource="m", tokens=900))
        assert isinstance(lease, Lease)
        await pool.settle(lease, verdict)
    await site.app.poller.fresh_state(force=True)
    told = described(await site.client.get(f"{PREFIX}/status", auth=LOGIN))
    keys = told["services"]["groq"]["keys"]
    blocks = [block for key in keys for block in key["blocks"]]
    assert {block["scope"] for block in blocks} == {
        "key",
        "account",
        "account_model",
        "key_resource",
    }
    assert {block["from_tokens"] for block in blocks} == {0, 900}
    assert {block["disabled_by"] for block in blocks} == {"", "test"}
    assert any(key["buckets"] for key in keys)


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
    await site.redis.lpush("ai\x06\x166", "{}")  # one of a higher priority
    # What programs read beside the job's result shows here as well.
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
    assert (queue["ready"], queue["deferred"], queue["waiting"]) == (4, 2, 6)
    site.app.workers["w"] = {"active_queues": [{"name": "ai"}, {"name": "ai.deferred"}]}
    told = await site.client.get("/api/queues/length", auth=LOGIN)
    assert told.json()["active_queues"] == [
        {"name": "ai", "messages": 4},
        {"name": "ai.deferred", "messages": 2},
    ]
    assert queue["drain_s"] is None  # nothing moves
    assert (await site.status())["services"]["resend"]["queue"]["drain_s"] == 0


async def test_deferred_jobs_are_shown_that_come_back_first_and_last_also_without_a_result(
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

    told = await until(jobs, bool)
    expected = ["woken", *(f"job-{number}" for number in (*range(9), *range(35, 40)))]
    assert [job["id"] for job in told] == expected
    assert {job["kind"] + job["code"] for job in told} == {""}
    assert told[0]["next_try_ms"] == pytest.approx(time.time() * 1000, abs=60_000), (
        "due now, not long ago"
    )


# What stands in the URL, what waits where, and what Flower's Broker page then counts.
@pytest.mark.parametrize("query", ["", "?db=3", "?socket_timeout=5&db=3"])
async def test_flowers_broker_page_takes_every_url_that_workers_take(
    serve: Serve, redis_url: str, query: str
) -> None:
    site = await serve(environ={"REDIS_URL": redis_url + query})
    await site.redis.lpush("ai", *["{}"] * 7)  # in the database that the URL names
    site.app.workers["w"] = {"active_queues": [{"name": "ai"}]}
    told = await site.client.get("/api/queues/length", auth=LOGIN)
    assert {"name": "ai", "messages": 7} in told.json()["active_queues"]
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


async def test_what_waits_in_workers_counts_and_their_pauses_show(serve: Serve) -> None:
    site = await serve()
    consumer = SimpleNamespace(pool=None, timer=SimpleNamespace(schedule=SimpleNamespace(queue=[])))
    stats = QueuePauser(consumer).info(consumer)
    idle = stats["backpressure"]
    assert {"paused", "waiting", "held"} <= set(idle), "what a worker says is what is read here"
    busy = {"paused": ["ai"], "waiting": {"ai": 7, "email": 1}, "held": {"ai": 2}}
    site.app.poller._watch._workers = [idle | {"waiting": {}}, busy, busy]

    async def queue() -> Any:
        return (await site.status())["services"]["groq"]["queue"]

    told = await until(queue, lambda queue: queue["workers"] == 3)
    assert (told["held"], told["waiting"], told["paused_workers"], told["paused"]) == (
        18,
        18,
        2,
        "some",
    )


async def test_the_oldest_job_is_as_old_as_it_is_also_when_it_was_deferred(serve: Serve) -> None:
    site = await serve()
    look = site.app.poller._watch.poll  # by hand from here on, with a clock of ours
    await asyncio.to_thread(site.app.poller.stop)
    site.app.poller._watch._ages.clear()
    now_s = 1_000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now_s)
        seen = {}
        for step in range(12):  # a job comes in every 10 s, and from the middle on one is taken
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


async def test_a_session_of_flowers_login_may_look_and_needs_its_token_to_change(
    serve: Serve,
) -> None:
    site = await serve(basic_auth=None, auth=".*@example.com")

    def session(user: str) -> dict[str, str]:
        return {"user": create_signed_value("canary-cookie-secret", "user", user).decode()}

    site.client.cookies.update(session("ada@example.com"))
    assert (await site.client.get(f"{PREFIX}/status")).status_code == 200
    refused = await site.client.post(f"{PREFIX}/reset", json={})
    assert (refused.status_code, described(refused)["error"]) == (403, "forbidden")
    await site.client.get("/keys")
    token = site.client.cookies["_xsrf"]
    done = await site.client.post(f"{PREFIX}/reset", json={}, headers={"X-XSRFToken": token})
    assert described(done)["by"] == "ada@example.com"
    machine = await site.client.post(f"{PREFIX}/reset", json={}, headers=BEARER)
    assert described(machine)["by"] == "token"
    site.client.cookies.update(session("eve@evil.example"))
    assert (await site.client.get(f"{PREFIX}/status")).status_code == 401


async def test_with_a_token_alone_machines_get_in_and_nobody_else(serve: Serve) -> None:
    site = await serve(basic_auth=None)
    assert (await site.client.get(f"{PREFIX}/status", headers=BEARER)).status_code == 200
    refused = await site.client.get(f"{PREFIX}/status")
    assert refused.headers.get_list("WWW-Authenticate") == ['Bearer realm="flower"']


async def test_a_prefix_of_flowers_stands_before_every_address(serve: Serve) -> None:
    site = await serve(url_prefix="flower")
    assert (await site.client.get(f"/flower{PREFIX}/status", auth=LOGIN)).status_code == 200
    page = await site.client.get("/flower/keys", auth=LOGIN)
    assert 'data-status-url="/flower/api/admin/api-keys/status"' in page.text
    assert (await site.client.get(f"/flower/keys/static/{version()}/keys.js")).status_code == 200


async def test_without_redis_the_answer_is_503_and_comes_back_by_itself(
    serve: Serve, tmp_path: Path
) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        site = await serve(environ={"REDIS_URL": server.url})
        assert (await site.client.get(f"{PREFIX}/status", auth=LOGIN)).status_code == 200
        server.stop()
        for path in ("audit", "status"):
            answer = await site.client.get(f"{PREFIX}/{path}", auth=LOGIN)
            if path == "audit":
                assert described(answer)["error"] == "redis_unreachable"
        answer = await post(site, "reset", json={})
        assert (answer.status_code, described(answer)["error"]) == (503, "redis_unreachable")
        assert str(server.port) not in answer.text
        server.start()
        await until(
            lambda: site.client.get(f"{PREFIX}/status", auth=LOGIN),
            lambda answer: answer.status_code == 200,
        )


async def test_a_fault_of_our_own_shows_no_trace(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve()

    async def broken(**_: Any) -> None:
        raise ValueError("a detail")

    monkeypatch.setattr(site.app.poller, "fresh_state", broken)
    answer = await site.client.get(f"{PREFIX}/status", auth=LOGIN)
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert "detail" not in answer.text


async def test_the_lookout_starts_and_stops_twice_and_tells_when_it_is_not_there(
    serve: Serve,
) -> None:
    site = await serve()
    site.app.poller.start()
    assert (await site.status())["services"]
    for _ in range(2):
        site.app.poller.stop()
    answer = await site.client.get(f"{PREFIX}/status", auth=LOGIN)
    assert (answer.status_code, described(answer)["error"]) == (503, "redis_unreachable")


async def test_a_key_that_is_added_later_shows_without_a_restart(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve(groq=1)
    assert len((await site.status())["services"]["groq"]["keys"]) == 1
    monkeypatch.setenv("GROQ_API_KEY_2", secret("groq", 2))
    site.app.poller._reloaded_at = float("-inf")

    async def keys() -> int:
        return len((await site.status())["services"]["groq"]["keys"])

    await until(keys, lambda count: count == 2)


async def test_keys_that_cannot_be_read_leave_flower_running_and_said_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(*_: Any) -> None:
        raise SettingsError([".env cannot be read as UTF-8 text."])

    monkeypatch.setattr(poller, "pools_for_tools", unreadable)
    site = await serve()
    assert (await site.client.get(f"{PREFIX}/status", auth=LOGIN)).status_code == 503
    assert "Flower shows no keys: .env cannot be read" in caplog.text
