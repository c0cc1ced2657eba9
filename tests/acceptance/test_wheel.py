"""The wheel: its content, and how it works beside an application of a user."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis, free_port
from tests.processes import eventually

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("config", "worker", "tasks", "sandbox")
UV = (sys.executable, "-m", "uv", "--no-config", "--offline", "--quiet")
THEIRS = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "theirs"
version = "1"
[tool.setuptools]
packages = ["config", "tasks", "worker"]
""",
    "config/__init__.py": "",
    "config/celery_app.py": (
        'from celery import Celery\napp = Celery("theirs", include=["tasks.hello"])\n'
    ),
    "tasks/__init__.py": "",
    "tasks/hello.py": "from config.celery_app import app\n\n@app.task\ndef hello(): ...\n",
    "worker/__init__.py": "OWNER = 'theirs'\n",
}
"""An application whose packages have the same names as ours in the checkout."""


def run(*command: str | Path, **options: object) -> str:
    result = subprocess.run(
        [*command], check=False, capture_output=True, text=True, timeout=100, **options  # type: ignore[call-overload]
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


_NOT_IN_SOURCE = shutil.ignore_patterns(".*_cache", ".venv", ".git", "node_modules", ".hypothesis")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a source distribution, so that this is tested as well."""
    target, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    # setuptools rewrites keywheel.egg-info, by which Celery finds our commands in the checkout.
    shutil.copytree(ROOT, source, ignore=_NOT_IN_SOURCE, dirs_exist_ok=True)
    options = ("--no-build-isolation", "--python", sys.executable, "--out-dir", target)
    run(*UV, "build", *options, source)
    [path] = target.glob("keywheel-*.whl")
    assert list(target.glob("keywheel-*.tar.gz"))
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_puts_one_name_on_the_import_path(contents: dict[str, bytes]) -> None:
    tops = {name.split("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"keywheel"}


def test_the_wheel_holds_every_file_of_every_package(contents: dict[str, bytes]) -> None:
    expected = {
        f"keywheel/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert any(name.endswith(".lua") for name in expected)
    assert any(name.endswith(".html") for name in expected)
    assert expected <= set(contents)
    assert {f"keywheel/{package}/py.typed" for package in PACKAGES} <= set(contents)
    assert "keywheel/py.typed" in contents


def test_the_wheel_imports_nothing_by_its_name_in_the_checkout(
    contents: dict[str, bytes],
) -> None:
    for name, source in contents.items():
        for node in ast.walk(ast.parse(source)) if name.endswith(".py") else ():
            if isinstance(node, ast.ImportFrom):
                named = [] if node.level else [node.module or ""]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                continue
            assert not {module.split(".")[0] for module in named} & set(PACKAGES), (
                f"{name}: {named}"
            )


def test_the_wheel_adds_our_commands_to_celery(contents: dict[str, bytes]) -> None:
    [text] = [content for name, content in contents.items() if name.endswith("/entry_points.txt")]
    group, *commands = text.decode().split()
    assert group == "[celery.commands]"
    assert commands[::3] == ["cancel", "dead", "job", "keys", "quote"]
    assert all(command.startswith("keywheel.worker.") for command in commands[2::3])


def test_the_wheel_carries_the_licence(contents: dict[str, bytes]) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in contents)


class Installed:
    """An environment with the wheel and an application whose packages have our names.

    Celery and the other dependencies are those of this environment.
    """

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.application = folder / "application"
        for name, text in THEIRS.items():
            path = self.application / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        venv = folder / "venv"
        run(*UV, "venv", "--python", sys.executable, venv)
        self.python = venv / "bin" / "python"
        [packages] = venv.glob("lib/python*/site-packages")
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        install = (*UV, "pip", "install", "--python", self.python, "--no-deps")
        run(*install, wheel)
        run(*install, "--no-build-isolation", self.application)
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.environ = {
            name: value for name, value in os.environ.items() if name != "PYTHONPATH"
        } | {"PYTHONUNBUFFERED": "1", "COLUMNS": "220", "KEYWHEEL_CHECK_KEYS_S": "0"}

    def run(self, *arguments: str, folder: Path | None = None) -> str:
        return run(self.python, *arguments, cwd=folder or self.elsewhere, env=self.environ)

    @contextmanager
    def started(self, *arguments: str, log: str) -> Iterator[Path]:
        path = self.elsewhere / log
        with (
            path.open("wb") as sink,
            subprocess.Popen(
                [self.python, "-m", "celery", *arguments], cwd=self.elsewhere, env=self.environ,
                stdout=sink, stderr=sink, start_new_session=True,
            ) as process,
        ):  # fmt: skip
            try:
                yield path
            finally:
                process.terminate()
                process.wait(20)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_an_application_with_our_names_keeps_its_own(installed: Installed) -> None:
    look = (
        "import config.celery_app as c, tasks.hello as t, worker as w, keywheel.worker.errors as e;"
        "print(c.app.main, t.hello.name, w.OWNER, e.KeywheelError.__module__)"
    )
    for folder in (installed.application, installed.elsewhere):
        output = installed.run("-c", look, folder=folder)
        assert output.split() == ["theirs", "tasks.hello.hello", "theirs", "keywheel.worker.errors"]
    report = installed.run("-m", "celery", "-A", "config.celery_app", "report")
    assert "software ->" in report


def test_worker_commands_and_flower_work_from_any_folder(installed: Installed) -> None:
    with EmbeddedRedis() as server, Sandbox() as sandbox:
        producer = Celery(broker=server.url, backend=server.url, set_as_current=False)
        port, login = free_port(), "ada:canary-password-5571"
        installed.environ |= sandbox.env() | {
            "REDIS_URL": server.url, "FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": login,
        }  # fmt: skip
        with (
            installed.started("-A", "keywheel", "worker", log="worker.log") as log,
            installed.started("-A", "keywheel", "flower", log="flower.log") as flower_log,
        ):
            job = producer.send_task("tasks.ai.complete", kwargs={"prompt": "hi"}, queue="ai")
            eventually(job.ready, within_s=40, what="the job's end")
            assert job.result["text"], log.read_text()
            wrong = producer.send_task("tasks.email.send", kwargs={"to": "nobody"}, queue="email")
            eventually(wrong.ready, what="the wrong job's end")
            assert "to.0: is not an email address" in str(wrong.result)
            assert type(wrong.result).__name__ == "InvalidArguments"
            status = installed.run("-m", "celery", "-A", "keywheel", "keys", "status")
            assert "groq: 3 of 3 keys ready" in status
            page = page_of(port, login)
            assert 'href="/keys/static/' in page
            assert "celery -A keywheel keys drift" in page, flower_log.read_text()
            sent = by_flower(port, login, "task/send-task/tasks.ai.complete", SENT_BY_HTTP)
            result = f"task/result/{sent['task-id']}"
            eventually(
                lambda: by_flower(port, login, result)["state"] == "SUCCESS",
                what="the end of the job that was sent by HTTP",
            )
        job.forget()
        producer.close()
    assert "python -m keywheel" in installed.run("-m", "keywheel", "--help")


SENT_BY_HTTP = {"kwargs": {"prompt": "Say hello"}, "queue": "ai"}
"""The body that docs/enqueueing.md shows in "By HTTP"."""


def by_flower(port: int, login: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call Flower's API."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/{path}", data=json.dumps(body).encode() if body else None
    )
    request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own
        return json.loads(answer.read())


def page_of(port: int, login: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/keys")
    request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    pages: list[str] = []

    def answers() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own
                pages.append(answer.read().decode())
        except ConnectionError:
            return False
        except OSError as exc:
            if not isinstance(getattr(exc, "reason", None), ConnectionError):
                raise
            return False
        return True

    eventually(answers, within_s=40, what="Flower's page")
    return pages[-1]
