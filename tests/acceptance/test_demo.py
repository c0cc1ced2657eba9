"""The demo as a person starts it: run to its end, interrupted, with a dead child, killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sandbox.redis import EmbeddedRedis

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 90.0
_JOBS, _EMAILS = 90, 30


class Demo:
    """`python -m demo --plain` with few jobs and its own temporary folder."""

    def __init__(self, folder: Path, *options: str, **environ: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.output = folder.parent / "output"
        command = [
            sys.executable,
            "-m",
            "demo",
            "--plain",
            f"--jobs={_JOBS}",
            f"--emails={_EMAILS}",
            *options,
        ]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env=os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"} | environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def await_text(self, pattern: str) -> None:
        self.until(
            lambda: re.search(pattern, self.text) is not None or self.process.poll() is not None
        )
        assert re.search(pattern, self.text), self.text

    def wait(self) -> int:
        self.until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def processes(self) -> dict[int, str]:
        """The processes in this demo's environment, by process id."""
        commands = {}
        mark = f"TMPDIR={self.folder}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes():
                        commands[int(entry.name)] = (
                            (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        )
                except OSError:
                    continue  # it has ended, or belongs to another user
        return commands

    def files(self) -> list[str]:
        return [
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        ]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    started = []

    def starting(*options: str, **environ: str) -> Demo:
        started.append(Demo(tmp_path / "tmp", *options, **environ))
        return started[-1]

    yield starting
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.process.wait(timeout=30)


def figure(text: str, name: str) -> str:
    match = re.search(rf"^{name}: (.*)$", text, re.MULTILINE)
    assert match, text
    return match[1]


def test_every_job_ends_well_and_nothing_is_left_behind(start: Callable[..., Demo]) -> None:
    with EmbeddedRedis() as server, redis.Redis(port=server.port) as client:
        client.set("somebody", "else")
        demo = start(
            REDIS_URL=server.url, GROQ_API_KEY="gsk_of_the_machine", HTTP_PROXY="http://127.0.0.1:1"
        )
        assert demo.wait() == 0, demo.text
        assert list(client.info("keyspace")) == ["db0"]
        assert client.get("somebody") == b"else"
    text = demo.text
    assert f"{_JOBS}/{_JOBS} completions and {_EMAILS}/{_EMAILS} emails done" in figure(
        text, "jobs"
    )
    assert figure(text, "jobs failed") == "0"
    assert figure(text, "calls on a revoked key after its refusal") == "0"
    assert figure(text, "emails accepted").startswith(f"{_EMAILS}, of which twice: 0")
    assert re.match(r"[1-9]\d* of completions", figure(text, "deferrals"))
    assert int(figure(text, "recoveries").split()[0]) > 2
    answered = dict(
        reversed(part.split(" completions by ")) for part in figure(text, "models").split(", ")
    )
    assert set(answered) == {"openai/gpt-oss-120b", "openai/gpt-oss-20b"}, (
        "the first model was switched off during the run"
    )
    assert sum(map(int, answered.values())) == _JOBS
    assert int(figure(text, "calls for a model that was switched off").split()[0]) < _JOBS / 4
    # The acts of the providers, and the reactions of the workers.
    for event in (
        "Groq switches openai/gpt-oss-120b off",
        "every Groq key is exhausted",
        "is disabled until a person resets it (invalid_key)",
        "will be tried again in",
        "limits learned for",
        "because no key is free",
        "is back",
    ):
        assert event in text
    assert "nothing is left behind" in text
    assert demo.files() == []
    assert demo.processes() == {}


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "starting Redis"),  # while only Redis may run
        (signal.SIGTERM, 143, "waiting for"),  # while the workers start
        (signal.SIGINT, 130, r"completions [1-9]"),  # in the middle of the run
    ],
)
def test_a_signal_stops_the_demo_cleanly_at_any_time(
    start: Callable[..., Demo], number: signal.Signals, code: int, line: str
) -> None:
    demo = start("--workers=1")
    demo.await_text(line)
    demo.process.send_signal(number)
    assert demo.wait() == code, demo.text
    assert "Traceback" not in demo.text
    *_, stopped, left = demo.text.splitlines()
    assert stopped.startswith("stopped by ")
    assert left.startswith("nothing is left behind")
    assert demo.files() == []
    assert demo.processes() == {}


def test_a_worker_that_dies_ends_the_demo_with_the_end_of_its_log(
    start: Callable[..., Demo],
) -> None:
    demo = start("--workers=1")
    demo.await_text("a producer enqueues")
    [worker] = [pid for pid, command in demo.processes().items() if "worker1@demo" in command]
    os.kill(worker, signal.SIGKILL)
    assert demo.wait() == 1
    assert "worker 1 ended unexpectedly (SIGKILL)" in demo.text
    assert "the logs are kept in" in demo.text
    assert any(name.endswith("logs/worker1.log") for name in demo.files())
    assert demo.processes() == {}


def test_what_the_demo_started_ends_even_when_the_demo_is_killed(
    start: Callable[..., Demo],
) -> None:
    demo = start("--workers=1")
    demo.await_text("a producer enqueues")
    assert len(demo.processes()) > 4
    demo.process.kill()
    demo.wait()
    demo.until(lambda: not demo.processes() and not any(demo.folder.iterdir()))


def test_a_redis_that_does_not_answer_is_a_clear_error(start: Callable[..., Demo]) -> None:
    demo = start(REDIS_URL="redis://127.0.0.1:1/0")
    assert demo.wait() == 1
    assert "the Redis of REDIS_URL cannot be used (ConnectionError)" in demo.text
    assert "Traceback" not in demo.text
    assert list(demo.folder.iterdir()) == []


def test_the_demo_fails_when_its_time_is_too_short(start: Callable[..., Demo]) -> None:
    demo = start("--seconds=3", "--workers=1")
    assert demo.wait() == 1
    assert "the jobs did not end within 3 s" in demo.text
    assert demo.processes() == {}
