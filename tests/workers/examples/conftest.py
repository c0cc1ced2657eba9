import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis, free_port
from tests.processes import ROOT, environment, workers
from tests.workers.examples.program import Program

NAMES = ("fastapi", "django", "express", "nextjs")


_TARGETS = {"express": "examples", "nextjs": "nextjs"}


@dataclass
class RunningExamples:
    """A worker and each example that can run here, once with and once without a Redis."""

    sandbox: Sandbox
    redis: EmbeddedRedis
    programs: dict[str, Program]
    without_redis: dict[str, Program]

    def url(self, name: str, *, has_redis: bool = True) -> str:
        if name in {"express", "nextjs"} and name not in self.programs:
            pytest.skip(f"examples/{name} needs node and `make {_TARGETS[name]}`")
        program = (self.programs if has_redis else self.without_redis)[name]
        return program.url or program.await_url()


def command(name: str) -> list[str] | None:
    """Return the command that starts an example on a free port; None if it cannot run here."""
    python = [sys.executable, "-X", "utf8"]
    if name == "fastapi":
        return [*python, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "0"]
    if name == "django":
        return [*python, "manage.py", "runserver", "--noreload", "--skip-checks", "127.0.0.1:0"]
    node = shutil.which("node")
    folder = ROOT / "examples" / name
    if name == "nextjs":  # the build writes this file last
        script = ["node_modules/next/dist/bin/next", "start", "-H", "127.0.0.1", "-p", "0"]
        return [node, *script] if node and (folder / ".next/BUILD_ID").is_file() else None
    # npm writes this file last: an interrupted installation does not count.
    installed = (folder / "node_modules/.package-lock.json").is_file()
    return [node, "server.js"] if node and installed else None


@pytest.fixture(scope="package")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningExamples]:
    folder = tmp_path_factory.mktemp("examples")
    limits = {
        "groq_rpm": 60_000,
        "groq_tpm": 0,
        "groq_rpd": 0,
        "groq_tpd": 0,
        "resend_rps": 100,
        "groq_stream_ms": 20,
    }
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(data_dir=folder / "redis"))
        sandbox = stack.enter_context(Sandbox(**limits))

        def start(label: str, arguments: list[str], cwd: Path, **environ: str) -> Program:
            path = folder / f"{label}.log"
            surroundings = environment(**environ)
            surroundings.pop("COVERAGE_PROCESS_CONFIG", None)  # no measured code runs there
            with path.open("wb") as sink:
                process = subprocess.Popen(
                    arguments,
                    cwd=cwd,
                    env=surroundings,
                    stdout=sink,
                    stderr=sink,
                    start_new_session=True,
                )
            program = Program(process, path)
            stack.callback(program.stop)
            return program

        environ = sandbox.env() | {"REDIS_URL": server.url, "KEYWHEEL_RETRY_BACKOFF_S": "0.2"}
        nowhere = f"127.0.0.1:{free_port()}"
        programs, without_redis = {}, {}
        for name in NAMES:
            if arguments := command(name):
                # The example gets only what it documents, so that its requirements are complete.
                given = {"PYTHONPATH": "", "PORT": "0"}
                cwd = ROOT / "examples" / name
                programs[name] = start(name, arguments, cwd, **given, REDIS_URL=server.url)
                away = f"redis://{nowhere}/0"
                without_redis[name] = start(
                    f"{name}-without-redis", arguments, cwd, **given, REDIS_URL=away
                )
        stack.enter_context(workers(folder, environ))
        yield RunningExamples(sandbox, server, programs, without_redis)


Visit = Callable[..., httpx.Client]


@pytest.fixture
def visit(examples: RunningExamples) -> Iterator[Visit]:
    """A browser: it keeps cookies, and sends the token that Django requires against forgery."""
    with ExitStack() as stack:

        def open_one(name: str, *, has_redis: bool = True) -> httpx.Client:
            client = stack.enter_context(
                httpx.Client(base_url=examples.url(name, has_redis=has_redis), timeout=40)
            )
            if name == "django":
                token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', client.get("/").text)
                assert token
                client.headers["X-CSRFToken"] = token[1]
            return client

        yield open_one
