"""`.ci/venv` makes the environment. Installing needs an index, so a script replaces uv."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "awk", "grep", "rm", "touch", "mkdir", "ln", "cat")
UV = f"""#!/bin/sh
echo "$*" >> said
if [ "$1" = venv ]; then mkdir -p .venv/bin && ln -s {sys.executable} .venv/bin/python; exit; fi
if [ -e fails ]; then echo 'error sending request for url' >&2; exit 3; fi
if [ -p begun ]; then echo > begun; cat begun; fi
"""


class Checkout:
    """A folder with the script, and a PATH with only the given programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci/venv", folder / ".ci/venv")
        for name in ("requirements.lock", "requirements-demo.lock"):
            (folder / name).write_text("celery==5.7.0\n")
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name) or name)

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, target: str, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["sh", ".ci/venv", target], cwd=self.folder, env={"PATH": str(self.bin)} | environ,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, target: str, **environ: str) -> tuple[int, str]:
        with self.start(target, **environ) as process:
            output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def uv_calls(self) -> list[str]:
        log = self.folder / "said"
        lines = log.read_text().splitlines()
        log.unlink()
        return ["venv" if line.startswith("venv") else line.split(" ")[-1] for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.program("uv", UV)
    (made.bin / "python3").symlink_to(sys.executable)
    return made


def test_the_tests_add_to_what_the_demo_installed(checkout: Checkout) -> None:
    assert checkout.run("demo")[0] == 0
    assert checkout.uv_calls() == ["venv", "requirements-demo.lock", "."]
    assert not (checkout.folder / ".venv/.ready").exists()
    assert checkout.run("all")[0] == 0
    assert checkout.uv_calls() == ["requirements.lock", "."]
    assert all((checkout.folder / ".venv" / stamp).exists() for stamp in (".runs", ".ready"))


def test_an_interrupted_installation_starts_over(checkout: Checkout) -> None:
    checkout.run("demo")
    os.mkfifo(checkout.folder / "begun")
    with checkout.start("all") as process:
        (checkout.folder / "begun").read_text()
        while process.poll() is None:  # a shell that is about to start a program may miss a signal
            os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=1)
    assert process.returncode == 130
    assert "stopped by Ctrl-C: the next call of make begins the installation anew" in output
    (checkout.folder / "begun").unlink()
    checkout.uv_calls()
    assert checkout.run("demo")[0] == 0
    assert checkout.uv_calls() == ["venv", "requirements-demo.lock", "."]


def test_a_failure_shows_what_the_installer_said(checkout: Checkout) -> None:
    (checkout.folder / "fails").touch()
    code, output = checkout.run("all")
    assert code == 3
    assert "error sending request for url" in output
    assert "The package index did not answer. Is there a network?" in output
    assert not (checkout.folder / ".venv/.runs").exists()
    (checkout.folder / "fails").unlink()
    checkout.uv_calls()
    assert checkout.run("all")[0] == 0
    assert checkout.uv_calls() == ["venv", "requirements.lock", "."]


def test_an_activated_environment_is_not_used_to_make_itself(checkout: Checkout) -> None:
    inside = checkout.folder / ".venv/bin"
    inside.mkdir(parents=True)
    for name in ("uv", "python3"):
        (inside / name).write_text("#!/bin/sh\nexit 9\n")
        (inside / name).chmod(0o755)
    code, output = checkout.run("all", PATH=f"{inside}:{checkout.bin}")
    assert code == 0, output


@pytest.mark.parametrize(
    ("python", "environ", "sentence"),
    [
        ("", {}, "No usable Python found: install Python 3.11 or newer"),
        ("exit 1", {}, "No usable Python found: install Python 3.11 or newer"),
        (
            f'case "$2" in *ensurepip*) exit 1; esac; exec {sys.executable} "$@"',
            {},
            "python3 has no venv module: install it",
        ),
        ("", {"PYTHON": "/no where"}, "PYTHON=/no where cannot be used"),
    ],
)
def test_a_missing_program_is_named(
    checkout: Checkout, python: str, environ: dict[str, str], sentence: str
) -> None:
    (checkout.bin / "python3").unlink()
    if python:
        checkout.program("python3", f"#!/bin/sh\n{python}\n")
    code, output = checkout.run("demo", UV="", **environ)
    assert code == 1
    assert sentence in output
    assert not (checkout.folder / ".venv").exists()


def test_formatting_goes_on_if_a_fault_of_style_needs_a_person(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$*"\n[ "$3" != check ]\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.ready").touch()
    made = subprocess.run(
        ["make", "format", "--assume-old=.venv/.ready"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.stdout.splitlines() == ["-m ruff check --fix", "-m ruff format"]
    assert made.returncode != 0
