"""The compose file's command that starts Redis, run on this machine."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from sandbox.redis import find_binary, free_port

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def unescaped(text: str) -> str:
    """Return a text of the compose file as the container gets it."""
    assert not re.search(r"(?<!\$)\$(?!\$)", text), "compose would replace this itself"
    return text.replace("$$", "$")


def write_password(folder: Path) -> str:
    """Run the script that writes the password; return the URL that it writes."""
    script = folder / "deploy/compose/write-redis-password"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deploy/compose/write-redis-password", script)
    subprocess.run(["sh", script], check=True)
    again = subprocess.run(["sh", script], capture_output=True, text=True, check=False)
    assert again.returncode == 1, "an installation would lose its password"
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    assert (folder / "secrets/redis-password").stat().st_mode & 0o777 == 0o644
    return (folder / "secrets/redis-url").read_text()


class StartedRedis:
    """The server that the compose file's own command starts, on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        (folder / "data").mkdir()
        (folder / "bin").mkdir()
        self.url = write_password(folder)
        # Replaces the image's binary; the port is the only difference from the container.
        binary = folder / "bin" / "redis-server"
        self.arguments = folder / "arguments"
        binary.write_text(
            f'#!/bin/sh\necho "$*" > "{self.arguments}"\n'
            f'exec "{find_binary()}" "$@" --bind 127.0.0.1 --port {self.port}\n'
        )
        binary.chmod(0o755)
        shell, flag, script = COMPOSE["services"]["redis"]["command"]
        self.process = subprocess.Popen(
            [shell, flag, unescaped(script).replace("/run/secrets", str(folder / "secrets"))],
            cwd=folder / "data",
            env={"PATH": f"{binary.parent}:{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
        )

    def client(self, password: str | None) -> redis.Redis:
        # Without retries: redis-py takes a refused password for a connection error, and would
        # repeat the connection for seconds.
        return redis.Redis(port=self.port, password=password, retry=Retry(NoBackoff(), 0))

    @property
    def password(self) -> str:
        match = re.fullmatch(r"redis://:([0-9a-f]{48})@redis:6379/0", self.url)
        assert match
        return match[1]

    def await_answer(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended at once"
            try:
                with self.client(self.password) as client:
                    client.ping()
            except redis.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the server did not answer")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedRedis]:
    server = StartedRedis(tmp_path_factory.mktemp("compose-redis"))
    try:
        server.await_answer()
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=10)


def test_the_redis_command_demands_the_password(started: StartedRedis) -> None:
    with started.client(None) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with started.client("wrong") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_the_redis_command_keeps_every_job(started: StartedRedis) -> None:
    with started.client(started.password) as client:
        assert client.config_get("appendonly")["appendonly"] == "yes"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"


def test_the_redis_password_is_not_on_the_servers_command_line(started: StartedRedis) -> None:
    arguments = started.arguments.read_text()
    assert "--appendonly yes" in arguments
    assert started.password not in arguments
