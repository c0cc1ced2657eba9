"""Snippets of the pages that need no worker, run unchanged."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from sandbox.redis import EmbeddedRedis
from tests.pages import ROOT, blocks, text_of
from tests.processes import run_python


def run(program: str, **environ: str) -> str:
    done = run_python(ROOT, environ, "-c", program)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_application_is_tested_with_the_sandbox() -> None:
    [snippet] = blocks(ROOT / "docs/sandbox.md", "python")
    run(snippet)


def test_the_command_that_is_added_on_the_page_for_contributors_shows_redis_clock(
    own_server: EmbeddedRedis,
) -> None:
    [snippet] = blocks(ROOT / "docs/contributing/add-a-command.md", "python")
    printed = run(f"{snippet}\nclock()", REDIS_URL=own_server.url)
    assert abs(datetime.fromisoformat(printed.strip()) - datetime.now(UTC)) < timedelta(hours=1)


def test_the_application_of_the_asyncio_pool_takes_the_snippets_about_its_tasks(
    own_server: EmbeddedRedis,
) -> None:
    pages = ROOT / "docs/asyncio-pool.md", ROOT / "docs/transport.md"
    first, *others = [block for page in pages for block in blocks(page, "python")]
    about_tasks = [block for block in others if "@app.task" in block or "app.conf" in block]
    program = "\n".join([first, *about_tasks, "print(poll.light_retry)"])
    assert run(program.replace("redis://127.0.0.1:6379/0", own_server.url)) == "True\n"
    with redis.Redis.from_url(own_server.url, decode_responses=True) as client:
        assert client.zcard("reminders.due") == 1  # due in a day


@pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("sha256sum")), reason="the snippet needs them"
)
def test_each_user_of_redis_gets_in_by_the_password_that_was_printed(
    own_server: EmbeddedRedis, tmp_path: Path
) -> None:
    [script] = [block for block in blocks(ROOT / "docs/redis.md", "sh") if "users.acl" in block]
    rules = tmp_path / "users.acl"
    rules.write_text(text_of(ROOT / "deploy/redis/users.acl"))
    printed = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    passwords = dict(line.split(": ") for line in printed.splitlines())
    assert set(passwords) == {"admin", "worker", "web", "flower"}
    with redis.Redis.from_url(own_server.url) as client:
        for line in rules.read_text().splitlines():
            _, name, *granted = line.split()
            if name != "default":
                client.execute_command("ACL", "SETUSER", name, *granted)
    for name, password in passwords.items():
        with redis.Redis(port=own_server.port, username=name, password=password) as client:
            assert client.ping()
