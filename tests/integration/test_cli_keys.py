"""`celery -A worker keys …` on a real Redis: its lists, and what each option leaves out."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

from config.services import SERVICES
from tests.commands import run_keys
from tests.unit.sample_keys import GROQ, RESEND
from worker.providers.drift import Drift
from worker.providers.unknowns import Unknown

Run = Callable[..., str]


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> Run:
    """Run a command that must succeed; return its output."""
    environ = {"REDIS_URL": redis_url, "GROQ_API_KEY": GROQ, "RESEND_API_KEY": RESEND}

    def start(*arguments: str) -> str:
        shown = run_keys(tmp_path, environ, *arguments)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    return start


def events(shown: str) -> list[tuple[str, str]]:
    """Return the service and the event of each entry of `keys audit`."""
    firsts = [line.split() for line in shown.splitlines() if " UTC  " in line]
    return [(words[3], words[4]) for words in firsts]


def test_the_audit_trail_is_of_all_services_or_of_one_and_as_long_as_it_is_asked_for(
    run: Run, redis_url: str
) -> None:
    run("pause", "groq", "--reason", "bill")
    run("resume", "groq")
    run("note", "RESEND_API_KEY", "asked them")
    with redis.Redis.from_url(redis_url) as client:
        done = {"event": "cancelled", "scope": "job", "name": "job-1", "reason": "", "by": "ann"}
        client.xadd("{kw:people}:audit", done)
        by_worker = {"event": "cooled", "scope": "key", "name": "k", "reason": "rpm", "by": ""}
        client.xadd("{kw:groq}:audit", by_worker | {"service": "groq", "until_ms": 0, "at_ms": 1})
    groq = [("groq", "resumed"), ("groq", "paused")]
    people = [("cancelled", "job"), ("resend", "noted"), *groq]
    assert events(run("audit", "--people")) == people
    assert events(run("audit")) == [*people, ("groq", "cooled")]
    assert events(run("audit", "--service", "groq", "--people")) == groq
    assert events(run("audit", "--service", "groq", "--people", "--count", "1")) == groq[:1]
    assert "bill, by cli " in run("audit")


def test_the_status_is_of_all_services_or_of_one(run: Run) -> None:
    run("pause", "groq")
    assert set(json.loads(run("status", "--json"))) == set(SERVICES)
    [view] = json.loads(run("status", "--json", "--service", "groq")).values()
    assert [key["state"] for key in view["keys"]] == ["cooling"]
    shown = run("status")
    assert "groq: paused, none of 1 keys ready, 0 calls in flight" in shown
    assert "resend: 1 of 1 keys ready, 0 calls in flight" in shown
    assert "resend" not in run("status", "--service", "groq")


def test_a_redis_that_evicts_is_warned_of_beside_what_is_printed(
    redis_url: str, tmp_path: Path
) -> None:
    environ = {"REDIS_URL": redis_url, "GROQ_API_KEY": GROQ}
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
        try:
            shown = run_keys(tmp_path, environ, "status", "--json")
        finally:
            client.config_set("maxmemory", "0", "maxmemory-policy", "noeviction")
    assert "allkeys-lru" in shown.stderr
    assert "groq" in json.loads(shown.stdout)


def test_unknown_answers_are_listed_and_the_person_who_clears_them_is_recorded(
    run: Run, redis_url: str
) -> None:
    async def notice() -> None:
        client = Redis.from_url(redis_url, decode_responses=True)
        drift = Drift(client, namespace="kw")
        for _ in range(2):
            drift.notice(Unknown("groq", "error_code", "400 [bold]new"))
        await drift.close()
        await client.aclose()

    assert run("drift").strip() == "nothing unknown: this version knew every answer"
    assert json.loads(run("drift", "--json")) == []
    asyncio.run(notice())
    [seen] = json.loads(run("drift", "--json"))
    assert (seen["kind"], seen["shape"], seen["count"]) == ("error_code", "400 [bold]new", 2)
    shown = run("drift", "--forget")
    for word in ("groq", "error code", "2", "400 [bold]new"):
        assert word in shown
    assert "nothing unknown" in run("drift", "--forget"), "no unknown answer is left to forget"
    [entry] = [line for line in run("audit").splitlines() if "forgotten" in line]
    assert entry.split()[-2:] == ["answers", "1"]
