"""Planted keys, passwords, prompts and mail bodies appear only where they must."""

import base64
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from sandbox.redis import free_port
from tests.commands import run_keys, run_lines
from tests.fleets import Fleet, StartFleet
from tests.processes import environment, eventually
from tests.tuned import tuned

PASSWORD = "canary-redis-password-5b1e"
PROMPT = "canary-prompt-77ac"
BODY = "canary-body-90fe"
LOGIN = "boss:canary-login-31d7"


@pytest.fixture(scope="module")
def fleet(start_fleet: StartFleet) -> Fleet:
    return start_fleet(
        password=PASSWORD, settings={"KEYWHEEL_LOG_LEVEL": "DEBUG"} | tuned(status_interval_s=0.5),
        groq_keys=3, groq_rpm=6_000, groq_tpm=0, resend_keys=2, resend_rps=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def planted(fleet: Fleet) -> list[str]:
    keys = fleet.sandbox.keys("groq") + fleet.sandbox.keys("resend")
    # A long part of a key is as secret as the whole key.
    return [*keys, *(key[-20:] for key in keys), PASSWORD, PROMPT, BODY, LOGIN.partition(":")[2]]


class Listener(threading.Thread):
    """Keeps every event of the bus as text."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(daemon=True)
        self.app = fleet.producer.app
        self.events: list[str] = []
        self.connected = threading.Event()

    def run(self) -> None:
        with self.app.connection_for_read() as connection:
            self.receiver = self.app.events.Receiver(connection, handlers={"*": self.hear})
            self.connected.set()
            self.receiver.capture(limit=None, timeout=None, wakeup=True)

    def hear(self, event: dict[str, Any]) -> None:
        self.events.append(repr(event))

    def stop(self) -> None:
        self.receiver.should_stop = True
        self.join(15)


@pytest.fixture(scope="module")
def events(fleet: Fleet) -> Iterator[Listener]:
    listener = Listener(fleet)
    listener.start()
    assert listener.connected.wait(10)
    yield listener
    listener.stop()


@pytest.fixture(scope="module")
def busy(fleet: Fleet, events: Listener) -> dict[str, dict[str, Any]]:
    """Run jobs that end in every way.

    They succeed, are refused, deferred, retried, or fail for good; one of the keys is dead.
    """
    sandbox, producer = fleet.sandbox, fleet.producer
    sandbox.control("fault", service="groq", status=500, count=2)
    sandbox.control("fault", service="groq", kind="rate_limit", retry_after_s=6, count=2)
    sandbox.control("fault", service="resend", kind="reset_after", count=1)
    sandbox.control("revoke", key="groq:3")
    sandbox.control("revoke", key="resend:2", form=400)
    ai: list[dict[str, Any]] = [
        {"prompt": f"{PROMPT} {n}", "stream": n % 3 == 0} for n in range(30)
    ]
    ai += [
        {"prompt": PROMPT, "promt": PROMPT},
        {"prompt": PROMPT, "temperature": PROMPT, "stream": True},
        {"messages": [{"role": PROMPT, "content": PROMPT}]},
        {"prompt": PROMPT, "model": "no-such-model", "stream": True},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]},
    ]
    mail = {"to": f"{BODY}@example.com", "subject": BODY, "html": f"<p>{BODY}</p>", "text": BODY}
    emails = [mail | {"subject": f"{BODY} {n}"} for n in range(5)]
    emails += [
        mail | {"attachments": [{"content": f"{BODY}!"}]},
        mail | {"from": BODY},
    ]
    ids = producer.many("tasks.ai.complete", ai) + producer.many("tasks.email.send", emails)
    ended = producer.await_all(ids, within_s=40)
    time.sleep(1)  # for the last events and log lines
    return ended


def found_in(text: str, planted: list[str]) -> list[str]:
    """Return the canaries in a text, each with the text before it."""
    positions = {secret[:14]: text.find(secret) for secret in planted if secret in text}
    return [
        f"{secret}…: {text[max(0, position - 80) : position]!r}"
        for secret, position in positions.items()
    ]


def test_every_job_ended_and_no_error_quotes_anything(
    busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    states = [meta["status"] for meta in busy.values()]
    assert (states.count("SUCCESS"), states.count("FAILURE")) == (36, 6)
    failures = json.dumps([meta for meta in busy.values() if meta["status"] == "FAILURE"])
    assert found_in(failures, planted) == []


def test_no_log_line_holds_a_canary_at_any_level(
    fleet: Fleet, busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    logs = fleet.logs
    assert "DEBUG" in logs
    assert "🚨 API key marked as failed" in logs
    assert found_in(logs, planted) == []


def test_no_event_holds_a_canary(
    events: Listener, busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    text = "\n".join(events.events)
    for kind in (
        "task-received",
        "task-succeeded",
        "task-failed",
        "task-retried",
        "keys-status",
        "worker-heartbeat",
    ):
        assert kind in text, kind
    assert found_in(text, planted) == []


def dump(client: "redis.Redis") -> dict[str, str]:
    """Return everything in Redis as text, except messages of open jobs and results."""
    readers: dict[str, Callable[[str], Any]] = {
        "string": client.get,
        "hash": client.hgetall,
        "list": lambda name: client.lrange(name, 0, -1),
        "set": client.smembers,
        "zset": lambda name: client.zrange(name, 0, -1, withscores=True),
        "stream": client.xrange,
    }
    shown = {}
    for raw in client.scan_iter(count=1000):
        name = raw.decode(errors="replace")
        if not name.startswith("celery-task-meta-"):
            shown[name] = f"{name} {readers[client.type(raw).decode()](raw)!r}"
    return shown


def test_nothing_in_redis_holds_a_canary(
    fleet: Fleet, busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    with redis.Redis(port=fleet.redis.port, password=PASSWORD) as client:
        everything = dump(client)
    assert any(name.startswith("{kw:groq}") for name in everything)
    assert any("audit" in name for name in everything)
    assert sum(name.startswith("kw:stream:") for name in everything) == 12
    # Dead letters keep the arguments of failed jobs for a replay, but no key.
    letters = {
        name: everything.pop(name) for name in list(everything) if name == "{kw:dead}:messages"
    }
    assert len(letters) == 1
    assert (
        found_in(
            "\n".join(letters.values()),
            [canary for canary in planted if canary not in (PROMPT, BODY)],
        )
        == []
    )
    # The broker keeps no message of an ended job, and the idempotency store no sent email.
    assert found_in("\n".join(everything.values()), planted) == []


def test_results_hold_what_the_caller_asked_for_and_no_key(
    busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    text = json.dumps(busy)
    assert (
        found_in(text, [secret for secret in planted if secret.startswith(("gsk_", "re_"))]) == []
    )


def test_no_command_shows_a_canary(
    fleet: Fleet, busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    lines = ("keys status", "keys reload", "inspect stats", "inspect conf", "report")
    for line, shown in run_lines(fleet.folder, fleet.environ, *lines).items():
        assert shown.returncode == 0, (line, shown.stderr)
        assert len(shown.stdout) > 30, line
        assert found_in(shown.stdout + shown.stderr, planted) == [], line


@pytest.mark.parametrize("arguments", [["status", "--json"], ["audit"]])
def test_no_output_for_programs_and_no_audit_shows_a_canary(
    fleet: Fleet, busy: dict[str, dict[str, Any]], planted: list[str], arguments: list[str]
) -> None:
    result = run_keys(fleet.folder, fleet.environ, *arguments)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 30
    assert found_in(result.stdout + result.stderr, planted) == []


def test_no_page_of_flower_shows_a_canary(
    fleet: Fleet, busy: dict[str, dict[str, Any]], planted: list[str]
) -> None:
    port = free_port()
    environ = fleet.environ | {"FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": LOGIN}
    log = fleet.folder / "flower.log"
    with log.open("wb") as sink:
        flower = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", "flower"],
            cwd=fleet.folder, env=environment(**environ), stdout=sink, stderr=sink,
                start_new_session=True,
        )  # fmt: skip
    try:
        login = base64.b64encode(LOGIN.encode()).decode()

        def page(path: str) -> str:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Basic {login}"}
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                    return str(answer.read().decode())
            except urllib.error.HTTPError as refused:
                refused.close()
                return ""
            except OSError:
                return ""

        # A page can open before Flower receives events. It receives them once it knows the workers
        # by their heartbeats.
        names = [worker.name for worker in fleet.workers]
        eventually(
            lambda: all(name in page("/workers") for name in names),
            within_s=60,
            what="Flower's hearing",
        )
        job = fleet.producer.many("tasks.ai.complete", [{"prompt": PROMPT}])[0]
        bad = fleet.producer.many("tasks.ai.complete", [{"prompt": PROMPT, "promt": PROMPT}])[0]
        fleet.producer.await_all([job, bad], within_s=20)
        seen = eventually(lambda: page(f"/task/{bad}"), within_s=40, what="the job's page")
        assert "InvalidArguments" in seen
        paths = [
            "/",
            "/workers",
            "/tasks",
            "/broker",
            f"/task/{job}",
            "/api/tasks",
            f"/api/task/info/{job}",
        ]
        paths += [
            f"/api/task/info/{bad}",
            "/api/workers?refresh=1",
            f"/worker/{names[0]}",
            f"/worker/{names[1]}",
        ]
        shown = {path: page(path) for path in paths}
    finally:
        flower.terminate()
        flower.wait(20)
    empty = [path for path, text in shown.items() if not text]
    assert not [path for path in empty if path in ("/workers", "/tasks", f"/task/{job}")], empty
    for path, text in shown.items():
        assert found_in(text, planted) == [], path
    assert found_in(log.read_text(errors="replace"), planted) == []
