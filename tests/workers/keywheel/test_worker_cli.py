"""`celery -A worker …` as a person uses it."""

import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import redis

from sandbox.redis import free_port
from tests.commands import run_keys
from tests.fleets import Stack
from tests.processes import eventually, run_celery

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def celery(stack: Stack, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in a separate process."""
    return checked(stack, run_celery(stack.folder, stack.environ | changes, *arguments))


def cli(stack: Stack, *arguments: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of `celery -A worker keys` in this process, which saves the start of one."""
    result = run_keys(stack.folder, stack.environ | changes, *arguments)
    return checked(stack, result)


def checked(
    stack: Stack, result: "subprocess.CompletedProcess[str]"
) -> "subprocess.CompletedProcess[str]":
    secrets = [*stack.sandbox.keys("groq"), *stack.sandbox.keys("resend")]
    assert not any(secret in result.stdout + result.stderr for secret in secrets)
    assert "Traceback" not in result.stderr
    return result


def test_the_status_is_a_table_of_every_key(fresh: Stack) -> None:
    fresh.sandbox.control("revoke", key="groq:1")
    for n in range(3):
        fresh.producer.ask("tasks.ai.complete", prompt=str(n))
    result = celery(fresh, "keys", "status")
    assert result.returncode == 0, result.stderr
    for secret in fresh.sandbox.keys("groq"):
        assert f"{secret[:10]}..." in result.stdout
    for word in ("disabled", "invalid_key", "until reset", "ready"):
        assert word in result.stdout


def test_a_key_is_disabled_reset_and_audited(fresh: Stack) -> None:
    result = cli(fresh, "status", "--service", "resend", "--json")
    pool = json.loads(result.stdout)
    assert set(pool) == {"resend"}
    key_id = pool["resend"]["keys"][0]["id"]
    result = cli(fresh, "disable", "RESEND_API_KEY", "--reason", "leaked on a slide")
    assert result.returncode == 0
    assert f"is disabled; `keys enable {key_id}` brings it back" in result.stdout
    status = fresh.producer.ask("tasks.admin.key_status")
    assert status["resend"]["keys"][0]["reason"] == "leaked on a slide"
    result = cli(fresh, "reset", "--service", "resend")
    assert "🔄 Resend failed keys reset (0 blocks cleared)" in result.stdout
    assert f"still out: key {pool['resend']['keys'][0]['label']}, disabled by cli " in result.stdout
    result = cli(fresh, "reset", "--key", key_id[:6])  # no other service has such a key
    assert "🔄 Resend failed keys reset (1 block cleared)" in result.stdout
    assert "Groq" not in result.stdout
    label = pool["resend"]["keys"][0]["label"]
    reason = ["--reason", "leaked on a slide"]
    result = cli(fresh, "disable", label, *reason, "--for", "90m", "--drain")
    assert result.stdout.strip() == f"{label} is disabled for 1 h 30 min"
    assert cli(fresh, "note", label, "asked  Resend").stdout == f"{label}: asked Resend\n"
    assert "note: asked Resend" in cli(fresh, "status").stdout
    result = cli(fresh, "reset", "--service", "resend", "--include-disabled")
    assert "🔄 Resend failed keys reset (1 block cleared)" in result.stdout
    assert f"back: key {pool['resend']['keys'][0]['label']}, disabled by cli " in result.stdout
    result = cli(fresh, "audit", "--service", "resend", "--count", "3", "--people")
    assert "reset" in result.stdout
    assert "asked Resend" in result.stdout
    assert "cli" in result.stdout
    assert "no person had disabled it" in cli(fresh, "enable", label).stdout


def test_a_paused_service_keeps_its_jobs_until_it_is_resumed(fresh: Stack) -> None:
    result = cli(fresh, "pause", "groq", "--reason", "they bill us twice")
    assert result.stdout.strip() == "groq is paused; `keys resume groq` ends it"
    waits = fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 3)
    mail = {"to": "ann@example.org", "subject": "x", "text": "x"}
    assert fresh.producer.ask("tasks.email.send", **mail)["id"], "the other service is not paused"
    states = {fresh.producer.app.AsyncResult(job).state for job in waits}
    assert not states & {"SUCCESS", "FAILURE"}
    result = celery(fresh, "quote", "groq", "--jobs", "10", "--tokens", "500", "--json")
    quote = json.loads(result.stdout)
    assert [quote[name] for name in ("service", "jobs", "tokens")] == ["groq", 10, 500]
    assert (quote["expected_start"], quote["limited_by"]) == (None, "paused")
    assert cli(fresh, "resume", "groq").stdout.strip() == "groq is resumed"
    fresh.producer.await_all(waits, within_s=20)


def test_each_key_is_checked_at_its_provider(fresh: Stack) -> None:
    fresh.sandbox.control("restore", key="groq:1")
    result = cli(fresh, "check", "--json")
    checks = json.loads(result.stdout)
    assert (result.returncode, checks["problems"]) == (0, [])
    assert [key["state"] for key in checks["keys"]] == ["alive"] * 5
    assert checks["keys"][0]["models"] == {"openai/gpt-oss-120b": True}
    assert checks["keys"][3]["limits"]["rps"] == 100
    fresh.sandbox.control("revoke", key="groq:1")
    result = cli(fresh, "check", "--service", "groq")
    assert result.returncode == 1
    assert "is not accepted: Invalid API Key (HTTP 401)" in result.stdout
    result = cli(fresh, "check", "--service", "groq", GROQ_MODEL="llama-3.3-70b-versatile")
    assert (
        "no groq key may use llama-3.3-70b-versatile: set GROQ_MODEL to one of openai/gpt-oss-120b"
        in result.stdout
    )


def test_the_usage_of_keys_is_shown_as_a_table_as_csv_and_as_json(fresh: Stack) -> None:
    fresh.producer.await_all(
        fresh.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 3), within_s=20
    )

    def calls() -> list[dict[str, Any]]:
        usage = json.loads(cli(fresh, "usage", "--json", "--range", "hour").stdout)
        rows = [row for row in usage["totals"] if row["service"] == "groq" and row["accepted"]]
        return rows if sum(row["accepted"] for row in rows) >= 3 else []

    # Calls of another test may be included: they are counted when the worker writes them.
    keys = eventually(calls, what="the usage, which a worker writes every few seconds")
    assert all(row["prompt_tokens"] and row["output_tokens"] for row in keys)
    assert all(row["label"].startswith("gsk_") for row in keys)
    label, calls_of = keys[0]["label"], keys[0]["calls"]
    result = cli(fresh, "usage", "--by", "model", "--key", label)
    # Other tests call other models with the same keys.
    rows = re.findall(r"^groq +(\S+) +(\d+) ", result.stdout, re.MULTILINE)
    assert "openai/gpt-oss-120b" in dict(rows), result.stdout
    assert sum(int(calls) for _, calls in rows) >= calls_of
    result = cli(fresh, "usage", "--csv", "--by", "service")
    assert result.stdout.startswith("time,service,calls,accepted,")
    result = cli(fresh, "usage", "--by", "colour")
    assert "by must be one or several of: service, key, " in result.stderr


def test_unknown_answers_are_listed_until_they_are_forgotten(fresh: Stack) -> None:
    fresh.sandbox.control("fault", service="groq", kind="something_new", count=1)
    fresh.producer.ask("tasks.ai.complete", prompt="canary-of-the-prompt")
    answers = eventually(
        lambda: json.loads(cli(fresh, "drift", "--json").stdout), what="the unknown answer"
    )
    assert [
        (answer["service"], answer["kind"], answer["shape"], answer["count"]) for answer in answers
    ] == [("groq", "error_code", "400 brand_new_code", 1)]
    result = cli(fresh, "drift", "--forget")
    assert "400 brand_new_code" in result.stdout
    assert "nothing unknown" in cli(fresh, "drift").stdout
    with redis.Redis.from_url(fresh.redis_url, decode_responses=True) as client:
        [(_, entry)] = client.xrevrange("{kw:people}:audit", count=1)
    assert (entry["event"], entry["scope"], entry["name"]) == ("forgotten", "unknown_answers", "1")
    assert "canary-of-the-prompt" not in fresh.worker.log


# The command, its exit status, and a part of its message.
@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (
            ["disable", "nosuchkey", "--service", "groq"],
            1,
            "no key here has the id, label or variable",
        ),
        (["reset", "--key", "0123456789ab"], 1, "no key here has the id, label or"),
        (["disable", "GROQ_API_KEY", "--for", "soon"], 2, "give a time such as 90s, 45m"),
        (["disable", "GROQ_API_KEY", "--service", "resend"], 1, "no key here has the id"),
    ],
)
def test_a_wrong_command_ends_with_a_sentence(
    stack: Stack, arguments: list[str], status: int, sentence: str
) -> None:
    result = cli(stack, *arguments)
    assert result.returncode == status
    assert sentence in result.stderr


def test_a_reload_of_keys_is_answered_by_each_worker_and_audited(stack: Stack) -> None:
    result = celery(stack, "keys", "reload")
    assert (result.returncode, result.stdout.strip()) == (
        0,
        f"{stack.worker.name}: 3 groq, 2 resend",
    )
    with redis.Redis.from_url(stack.redis_url, decode_responses=True) as client:
        [(_, entry)] = client.xrevrange("{kw:groq}:actions", count=1)
    assert (entry["event"], entry["reason"]) == ("reloaded", "1 worker answered")
    assert entry["by"].startswith("cli ")


# Commands of the pool alone run here; the one that needs the workers has its own app.
@pytest.mark.parametrize(("run", "command"), [(cli, ["status"]), (celery, ["keys", "reload"])])
def test_a_redis_that_is_down_is_named_without_its_password(
    stack: Stack, run: Run, command: list[str]
) -> None:
    port = free_port()
    result = run(stack, *command, REDIS_URL=f"redis://:canary-password@127.0.0.1:{port}/0")
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "is it running?" in result.stderr
    assert "canary-password" not in result.stderr


def test_wrong_settings_are_one_sentence(stack: Stack) -> None:
    result = celery(stack, "keys", "status", KEYWHEEL_MAX_RETRIES="many")
    assert result.returncode == 1
    assert "KEYWHEEL_MAX_RETRIES must be a whole number" in result.stderr


def test_a_job_can_be_called_from_the_command_line(fresh: Stack) -> None:
    result = celery(fresh, "call", "tasks.ai.complete", "--kwargs", '{"prompt": "Say hello"}')
    assert result.returncode == 0, result.stderr
    answer = fresh.producer.outcome(fresh.producer.app.AsyncResult(result.stdout.strip()))
    assert answer["text"]
