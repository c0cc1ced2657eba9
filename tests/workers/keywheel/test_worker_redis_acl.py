"""The users of `deploy/redis/users.acl` with a real Redis: each has enough rights, and no more."""

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from keywheel_client import JobCancelled, JobFailed, Keywheel
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.acceptance.flower_process import LOGIN, flower
from tests.commands import run_lines
from tests.fleets import WIDE_LIMITS
from tests.processes import ROOT, Producer, eventually, workers

RULES = dict(
    re.findall(r"^user (\S+) (.+)$", (ROOT / "deploy/redis/users.acl").read_text(), re.MULTILINE)
)


@dataclass
class Guarded:
    """A Redis with the users of the file, and the processes that use it."""

    url: str
    admin: "redis.Redis"
    environ: dict[str, str]
    folder: Path
    sandbox: Sandbox

    def url_of(self, user: str) -> str:
        return self.url.replace("://", f"://{user}:{user}-password@")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file = folder / "users.acl"
    # The tests manage their server as its default user, which the file switches off.
    lines = [
        f"user {name} {rules} >{name}-password"
        for name, rules in RULES.items()
        if name != "default"
    ]
    file.write_text("\n".join([*lines, "user default on nopass ~* &* +@all", ""]))
    with (
        EmbeddedRedis(data_dir=folder / "redis", options={"aclfile": str(file)}) as server,
        Sandbox(groq_keys=2, resend_keys=1, **WIDE_LIMITS) as sandbox,
        redis.Redis.from_url(server.url, decode_responses=True) as admin,
    ):
        yield Guarded(server.url, admin, sandbox.env(), folder, sandbox)


def test_the_rights_are_enough_for_workers_applications_flower_and_commands(
    guarded: Guarded, unmeasured_processes: None
) -> None:
    environ = guarded.environ | {"REDIS_URL": guarded.url_of("worker")}
    flower_environ = guarded.environ | {"REDIS_URL": guarded.url_of("flower")}
    producer, web = Producer(guarded.url_of("web")), Keywheel(guarded.url_of("web"))
    mail = {"to": "a@example.com", "text": "x"}
    with (
        workers(guarded.folder, environ) as [worker],
        flower(guarded.folder / "flower", flower_environ) as page,
    ):
        # A web application, by our client and by Celery.
        assert producer.ask("tasks.ai.complete", prompt="x", stream=True)["text"]
        assert producer.ask("tasks.email.send", subject="Hello", **mail)["id"]
        streamed = web.complete("x", stream=True)
        assert list(web.stream(streamed))[-1].type == "end"
        with web.pipeline() as pipe:
            mails = [pipe.send_email(subject=f"Mail {n}", **mail) for n in range(20)]
        assert all(web.result(job)["id"] for job in mails)
        web.result(web.complete("x", priority=8, dedupe_key="once"))

        # A job that is deferred and cancelled, and one that comes back after a reset.
        guarded.sandbox.control("exhaust", service="groq", seconds=30)
        unwanted, wanted = web.complete("x"), web.complete("x")
        eventually(lambda: web.status(wanted).state == "deferred", what="a deferral")
        assert web.cancel(unwanted)
        with pytest.raises(JobCancelled):
            web.result(unwanted)
        assert all((web.key_status()["groq"], web.quote("groq").waiting))
        guarded.sandbox.control("reset")
        assert web.reset_keys(service="groq")
        assert web.result(wanted)["text"]

        # Dead letters, and the commands.
        with pytest.raises(JobFailed):
            web.result(web.complete("x", model="none"))
        lines = ("keys status", "keys drift", "dead replay --all --yes", "inspect ping")
        for line, done in run_lines(guarded.folder, environ, *lines).items():
            assert done.returncode == 0, (line, done.stderr)

        # Flower.
        for path in ("keys", "metrics", "workers", "broker", "api/workers?refresh=1"):
            assert browse(f"{page}/{path}")
        guarded.sandbox.control("exhaust", service="groq", seconds=30)
        unwanted = web.complete("x", stream=True)
        eventually(lambda: web.status(unwanted).state == "deferred", what="a deferral")
        admin = f"{page}/api/admin"
        assert browse(f"{admin}/jobs/{unwanted}/cancel", {})
        key = json.loads(browse(f"{admin}/api-keys/status"))["services"]["groq"]["keys"][0]
        assert browse(f"{admin}/api-keys/audit")
        assert browse(f"{admin}/api-keys/disable", {"service": "groq", "key": key["id"]})
        guarded.sandbox.control("reset")
        assert browse(f"{admin}/api-keys/check", {"service": "groq"})
        assert browse(f"{admin}/api-keys/reset", {"service": "groq", "include_disabled": True})
        failed = web.complete("x", model="none")
        eventually(lambda: failed in browse(f"{admin}/dead-letters"), what="a dead letter")
        assert browse(f"{admin}/dead-letters/replay", {"id": failed})
        assert browse(f"{admin}/dead-letters/drop", {"kind": "failed"})
        worker.stop()
        assert "cancelled" in browse(f"{admin}/jobs/{web.complete('x')}/cancel", {})
    web.close()
    producer.close()
    log = guarded.admin.acl_log()
    denied = {
        (entry["username"], entry["reason"], entry["context"], entry["object"]) for entry in log
    }
    assert denied == set()


def browse(url: str, body: dict[str, Any] | None = None) -> str:
    login = base64.b64encode(":".join(LOGIN).encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - our own
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return str(answer.read().decode())
    except urllib.error.HTTPError as exc:
        pytest.fail(f"{url}: {exc.code} {exc.read().decode(errors='replace')[:500]}")


# The user, and a forbidden command.
@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("web", "GET {kw:outbox}:mail:x"),
        ("web", "LPUSH unacked x"),
        ("web", "SET celery-task-meta-x y"),
        ("web", "PUBLISH /0.celery.pidbox x"),
        ("web", "DEL ai"),
        ("web", "LRANGE ai 0 -1"),
        ("web", "EVAL return(1) 1 ai"),
        ("web", "HGETALL {kw:groq}:key:x"),
        *((user, command) for user in ("web", "flower", "worker") for command in (
            "KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST", "MONITOR", "GET another",
            "CLIENT LIST",
        )),
    ],
)  # fmt: skip
def test_no_user_has_more_rights_than_it_needs(guarded: Guarded, user: str, command: str) -> None:
    url = guarded.url_of(user)
    with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command.split(" "))


def test_no_user_can_log_in_before_a_password_is_added() -> None:
    assert RULES["default"] == "off"
    for rules in RULES.values():
        assert not re.search(r"(^| )(nopass|[>#]\S*)", rules)
