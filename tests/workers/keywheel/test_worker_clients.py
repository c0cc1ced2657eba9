"""The clients with a real worker: the examples of their pages, and every end of a job."""

import ast
import asyncio
import inspect
import json
import os
import shutil
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from config.services import SERVICES
from keywheel_client import (
    AsyncKeywheel,
    JobCancelled,
    JobFailed,
    Keywheel,
    ResultTimeout,
    StreamEvent,
    Unavailable,
)
from tests import schemas
from tests.fleets import Stack
from tests.pages import ROOT, blocks
from tests.processes import eventually, inspected

PAGE = ROOT / "docs/clients.md"


def test_a_newcomer_to_python_has_a_result_in_ten_lines(fresh: Stack, tmp_path: Path) -> None:
    """Run the page's installation and its first program."""
    install, first = blocks(PAGE, "sh")[0], blocks(PAGE, "python")[0]
    assert len([line for line in (install + first).splitlines() if line.strip()]) <= 10
    assert install.startswith("pip install ./clients/python ")  # a comment follows
    shutil.copytree(ROOT / "clients/python", tmp_path / "clients/python")
    target = tmp_path / "installed"
    options = [
        "--python",
        sys.executable,
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    uv = [sys.executable, "-m", "uv", "--no-config", "--offline", "pip", "install"]
    subprocess.run([*uv, *options, "./clients/python"], cwd=tmp_path, check=True, timeout=60)
    assert (target / "keywheel_client/py.typed").exists()
    program = tmp_path / "first.py"
    program.write_text(first)
    environ = {**os.environ, "PYTHONPATH": str(target), "REDIS_URL": fresh.redis_url}
    done = subprocess.run(
        [sys.executable, program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("Sandbox ")


async def test_every_example_for_python_runs(
    fresh: Stack,
    web_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", web_url)
    names: dict[str, Any] = {}
    for block in blocks(PAGE, "python"):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        value = eval(compile(block, str(PAGE), "exec", flags=flags), names)  # noqa: S307 - our page
        if inspect.iscoroutine(value):
            await value
    output = capsys.readouterr().out
    assert "InvalidArguments to.0: is not an email address" in output
    assert names["status"].state == "done"
    assert len(names["results"]) == 3
    names["keywheel"].close()


@pytest.fixture
def keywheel(fresh: Stack, web_url: str) -> Any:
    with Keywheel(web_url) as client:
        yield client


def shown(events: list[StreamEvent]) -> str:
    text = ""
    for event in events:
        text = "" if event.type in {"start", "restart"} else text + event.text
    return text


def test_a_job_runs_is_deferred_and_is_cancelled_for_good(fresh: Stack, keywheel: Keywheel) -> None:
    fresh.sandbox.control("fault", service="groq", kind="hang", hang_s=2, count=1)
    slow = keywheel.complete("x")
    eventually(lambda: keywheel.status(slow).state == "running", what="a job that runs")
    assert keywheel.result(slow)["attempts"] >= 1
    fresh.sandbox.control("exhaust", service="groq", seconds=30)
    job = keywheel.complete("x", stream=True, tenant="acme@example.com")
    eventually(lambda: keywheel.status(job).state == "deferred", what="a deferral")
    with redis.Redis.from_url(fresh.redis_url) as client:
        kept = json.loads(client.hget("ai.deferred.due.texts", job) or b"{}")
    assert kept["headers"]["tenant"] == "acme@example.com"  # a deferred job keeps its tenant
    assert "acme" not in fresh.worker.log
    status = keywheel.status(job)
    assert (status.waits_for, status.code) == ("key", "rpm")
    assert status.next_try
    assert status.expected_end
    assert status.next_try <= status.expected_end
    with pytest.raises(ResultTimeout) as late:
        keywheel.result(job, timeout_s=0.1)
    assert late.value.status.state == "deferred"
    late_job = keywheel.complete("x", expires_s=0.001)
    with pytest.raises(JobFailed, match="DeadlineExceeded"):
        keywheel.result(late_job)
    events = keywheel.stream(job)
    waits = next(event for event in events if event.type == "wait")
    assert (waits.code, waits.next_try is not None) == ("rpm", True)
    assert keywheel.cancel(job) is True
    with pytest.raises(JobCancelled):
        keywheel.result(job)
    with pytest.raises(JobCancelled):
        list(events)
    assert keywheel.cancel(job) is False


def test_a_stream_is_read_from_where_it_was_left_and_from_the_result(keywheel: Keywheel) -> None:
    job = keywheel.complete("x", stream=True)
    first: list[StreamEvent] = []
    for event in keywheel.stream(job):
        first.append(event)
        if event.type == "delta":
            break
    rest = list(keywheel.stream(job, after=first[-1].id))
    text = keywheel.result(job)["text"]
    assert shown(first + rest) == text
    assert rest[-1].type == "end"
    assert rest[-1].usage["total_tokens"] > 0
    plain = keywheel.complete("x")
    assert [event.type for event in keywheel.stream(plain)] == ["restart", "delta", "end"]
    with pytest.raises(ResultTimeout):
        list(keywheel.stream("no-such-job", timeout_s=0.1))


async def test_the_client_for_asyncio_does_the_same(fresh: Stack) -> None:
    async with AsyncKeywheel(fresh.redis_url) as client:
        async with client.pipeline() as pipe:
            jobs = [pipe.complete(f"n {number}", stream=True) for number in range(20)]
            wrong = pipe.complete()
        results = await asyncio.gather(*(client.result(job) for job in jobs))
        assert all(result["text"] for result in results)
        with pytest.raises(JobFailed, match="InvalidArguments: give either messages, or prompt"):
            await client.result(wrong)
        assert shown([event async for event in client.stream(jobs[0])]) == results[0]["text"]
        with pytest.raises(ResultTimeout):
            await client.result("no-such-job", timeout_s=0.1)
        assert await client.cancel(jobs[0]) is False
        assert (await client.status(jobs[0])).state == "done"
        mail = await client.send_email(to="a@example.com", subject="x", text="y")
        assert (await client.result(mail))["id"]
        replies = {"key_status": await client.key_status(), "reset_keys": await client.reset_keys()}
        assert set(replies["key_status"]) == set(SERVICES)
        quote = await client.quote("resend", jobs=3)
        assert (quote.service, quote.model, quote.jobs) == ("resend", "", 3)
        with pytest.raises(JobFailed, match="InvalidArguments: jobs: must be greater"):
            await client.quote("groq", jobs=0)
    for name, result in replies.items():
        schemas.check(f"tasks.admin.{name}", "result", result)
    schemas.check("tasks.ai.complete", "result", results[0])
    cancelled = fresh.producer.ask("tasks.admin.cancel", id=[str(jobs[0]), str(uuid.uuid4())])
    assert cancelled["jobs"][jobs[0]] == "SUCCESS"
    schemas.check("tasks.admin.cancel", "result", cancelled)


def paused(stack: Stack) -> list[str]:
    stats = inspected(stack.producer.app, stack.worker.name, "stats")
    names: list[str] = stats["backpressure"]["paused"]
    return names


def test_a_job_that_waits_has_a_place_and_an_expected_start(
    fresh: Stack, keywheel: Keywheel
) -> None:
    assert keywheel.status("no-such-job", place=True).place is None
    fresh.sandbox.control("exhaust", service="groq", seconds=30)
    first = keywheel.complete("x")
    eventually(lambda: keywheel.status(first).state == "deferred", what="a deferral")
    # The log has the line at most once a minute, perhaps from an earlier test.
    eventually(lambda: "ai" in paused(fresh), what="a paused queue")
    jobs = [keywheel.complete("x") for _ in range(3)]
    many = [keywheel.complete("x", tenant="big") for _ in range(300)]
    with redis.Redis.from_url(fresh.redis_url) as client:
        # The next 128 jobs stay in the list.
        eventually(
            lambda: client.llen("ai") == 128, what="the others in the sublists of the tenants"
        )
    status = keywheel.status(jobs[2], place=True)
    assert (status.state, status.expected_start is not None) == ("waiting", True)
    assert 3 <= (status.place or 0) <= 6, "the job takes turns with those of the tenant"
    assert keywheel.status(many[-1], place=True).place == 303
    reply = fresh.producer.ask("tasks.admin.place", id=str(many[-1]))
    schemas.check("tasks.admin.place", "result", reply)
    assert reply["waiting"] == 303
    assert reply["limited_by"] in {"rpm", "rate_limit"}
    quote = keywheel.quote("groq", jobs=10)
    assert quote.waiting == 304, "the deferred job counts"
    assert status.expected_start is not None
    assert quote.expected_start is not None
    assert quote.end_by is not None
    assert quote.limited_by in {"rpm", "rate_limit"}
    # Both may start when the keys' rest ends, which each estimate finds within 10 ms.
    rounding = timedelta(seconds=0.05)
    assert status.expected_start - rounding <= quote.expected_start < quote.end_by
    assert keywheel.status(first, place=True).state == "deferred"
    for job in (first, *jobs, *many):
        assert keywheel.cancel(job)


def test_what_a_reset_brings_back_is_as_documented(fresh: Stack, keywheel: Keywheel) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=30)
    job = keywheel.complete("x")
    eventually(lambda: keywheel.status(job).state == "deferred", what="a deferral")
    status, done = keywheel.key_status(), keywheel.reset_keys(service="groq", by="a test")
    assert [key["state"] for key in status["groq"]["keys"]].count("cooling") >= 3
    assert done["brought_back"]["groq"]
    schemas.check("tasks.admin.key_status", "result", status)
    schemas.check("tasks.admin.reset_keys", "result", done)
    assert keywheel.cancel(job)


async def test_closing_a_client_cancels_calls_that_wait(fresh: Stack) -> None:
    client = AsyncKeywheel(fresh.redis_url)
    waiting = asyncio.create_task(client.result("no-such-job", timeout_s=None))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await client.close()


async def test_an_unreachable_redis_is_reported_without_its_password() -> None:
    url = "redis://:canary-password@127.0.0.1:1/0"
    with Keywheel(url) as client, pytest.raises(Unavailable) as raised:
        client.complete("x")
    assert "canary" not in str(raised.value)
    async with AsyncKeywheel(url) as other:
        with pytest.raises(Unavailable):
            await other.result("x", timeout_s=0.1)


def test_django_sends_its_emails_by_it(fresh: Stack, tmp_path: Path) -> None:
    program = """
import sys
import uuid
from django.conf import settings
backend = "keywheel_client.django.EmailBackend"
where = {"url": sys.argv[1]}
settings.configure(EMAIL_BACKEND=backend, EMAIL_KEYWHEEL=where, DEFAULT_FROM_EMAIL=sys.argv[2])
from django.core import mail
messages = [mail.EmailMessage("From Django", "x", None, [f"{n}@example.com"]) for n in range(3)]
print(mail.get_connection().send_messages([*messages, mail.EmailMessage("nobody", "x")]))
where["url"] = "redis://127.0.0.1:1/0"
print(mail.get_connection(fail_silently=True).send_messages(messages))
"""
    sender = fresh.environ["RESEND_FROM"]
    result = subprocess.run(
        [sys.executable, "-c", program, fresh.redis_url, sender],
        env={**os.environ, "PYTHONPATH": str(ROOT / "clients/python")}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert result.stdout.split() == ["3", "0"]
    eventually(lambda: len(fresh.sandbox.mail().get("From Django", ())) == 3, what="three emails")
