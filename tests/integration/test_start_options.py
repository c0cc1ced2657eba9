"""Bad options and shell variables stop the start of a worker with a sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CELERY = ("celery", "-A", "worker", "worker")
BEAT = ("celery", "-A", "worker", "beat")
ALONE = ("worker",)
NOBODY_LISTENS = "redis://127.0.0.1:1/0"


def started(
    folder: Path, *arguments: str, command: tuple[str, ...] = ALONE, files: int = 0, **changes: str
) -> str:
    """Try to start a worker that cannot start; return its output."""
    quoted = [sys.executable, "-m", *command, *arguments]
    limit = f"ulimit -n {files} && " if files else ""
    done = subprocess.run(
        ["sh", "-c", f'{limit}exec "$@"', "sh", *quoted],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "GROQ_API_KEY": "gsk_" + "Zq7" * 17 + "x",
            "REDIS_URL": NOBODY_LISTENS,
        }
        | changes,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# tests/unit/test_start_command.py has further cases, without a process.
@pytest.mark.parametrize(
    ("command", "argument", "sentence"),
    [
        (
            CELERY,
            "--uid=nosuchuser",
            "--uid names the user nosuchuser, and this machine has none: name one that `getent",
        ),
        (ALONE, "--autoscale=x,y", "--autoscale takes one or two whole numbers"),
        (ALONE, "--include=nosuch.jobs", "The Python module nosuch cannot be imported (No module"),
        (BEAT, "--schedule=no/file", "The file of --schedule cannot be written: check its folder."),
        (BEAT, "--scheduler=nosuch.Job", "The Python module nosuch cannot be imported (No module"),
        (
            ("celery", "-A", "worker", "--workdir=no/folder", "beat"),
            "--quiet",
            "The folder of --workdir, no/folder, cannot be entered (No such file or directory)",
        ),
    ],
)
def test_an_option_that_cannot_work_ends_the_start_with_a_sentence(
    tmp_path: Path, command: tuple[str, ...], argument: str, sentence: str
) -> None:
    assert sentence in started(tmp_path, argument, command=command)


def test_more_jobs_than_this_process_may_open_files_end_the_start_with_how_many_fit(
    tmp_path: Path,
) -> None:
    assert (
        "The concurrency of -c or --autoscale (400) needs about 464 open files, and this process "
        "may have 256: lower the number of jobs to 192, or raise the limit (ulimit -n 464)."
    ) in started(tmp_path, "--concurrency=400", files=256)


def test_the_log_of_a_worker_says_why_it_did_not_start(tmp_path: Path) -> None:
    """The log is all that a worker in the background (`--detach`) has."""
    started(tmp_path, "--hostname=w1@test", "--logfile=%n.txt", "--max-tasks-per-child=5")
    [line] = (tmp_path / "w1.txt").read_text().splitlines()
    assert "CRITICAL" in line
    assert "keywheel cannot start. | worker_max_tasks_per_child has no meaning" in line


@pytest.mark.parametrize(("name", "package"), [("config.py", "config"), ("tasks.py", "tasks")])
def test_a_module_of_the_users_that_hides_one_is_named(
    tmp_path: Path, name: str, package: str
) -> None:
    (tmp_path / name).write_text("ANYTHING = 1\n")
    log = started(tmp_path, command=CELERY, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert f"{tmp_path / name} hides the module {package} that is needed, " in log


def test_the_sentence_about_a_hidden_module_is_json_if_the_logs_are(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "__init__.py").write_text("")
    log = started(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}", KEYWHEEL_LOG_FORMAT="json")
    last = json.loads(log.splitlines()[-1])
    assert last["level"] == "CRITICAL"
    assert "hides the module redis that is needed" in last["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="Celery warns of root alone")
def test_a_worker_of_root_if_each_warning_is_an_error_says_what_to_do(tmp_path: Path) -> None:
    assert (
        "Python turns each warning into an error here (PYTHONWARNINGS=error or -W error), also "
        "Celery's warning about a worker with superuser privileges: start it as another user "
        "(--uid), or unset PYTHONWARNINGS."
    ) in started(tmp_path, PYTHONWARNINGS="error")


def test_no_import_of_a_worker_or_of_flower_warns(tmp_path: Path) -> None:
    names = "worker.__main__, worker.dashboard, worker.cli.keys, tasks.ai, tasks.email, tasks.admin"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import {names}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
