"""The probe's report about a worker's heartbeat, and its exit code."""

import os
import runpy
import sys
from pathlib import Path

import pytest

from worker import probe

NOW_S = 1_000_000.0
STILL = "the last heartbeat is 31 s old: the worker stands still"
TAKES_NONE = "the worker takes no jobs: it has not started yet, or Redis does not answer"


@pytest.fixture
def heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(probe.time, "time", lambda: NOW_S)
    return tmp_path / "heartbeat"


def beat(file: Path, *, age_s: float, text: str) -> None:
    file.write_text(text)
    os.utime(file, (NOW_S - age_s,) * 2)


@pytest.mark.parametrize(
    ("age_s", "text", "options", "ends_with"),
    [
        (0, "ready\n", [], None),
        (30, "ready\n", [], None),
        (31, "ready\n", [], STILL),
        (31, "ready\n", ["--within-s", "31.5"], None),
        (5, "ready\n", ["--within-s", "4"], STILL.replace("31", "5")),
        (0, "not ready\n", [], None),
        (0, "not ready\n", ["--ready"], TAKES_NONE),
        (0, "ready\n", ["--ready"], None),
        (31, "not ready\n", ["--ready"], STILL),
    ],
)
def test_the_probe_ends_with_the_problem(
    heartbeat: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    age_s: float,
    text: str,
    options: list[str],
    ends_with: str | None,
) -> None:
    beat(heartbeat, age_s=age_s, text=text)
    monkeypatch.setattr(sys, "argv", ["probe", str(heartbeat), *options])
    with pytest.raises(SystemExit) as ended:
        probe.main()
    assert ended.value.code == ends_with


def test_a_worker_without_a_heartbeat_is_not_alive(heartbeat: Path) -> None:
    problem = probe.problem(heartbeat, within_s=30, ready=False)
    assert problem == f"no heartbeat: [Errno 2] No such file or directory: '{heartbeat}'"


def test_the_probe_shows_its_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["probe", "--help"])
    with pytest.raises(SystemExit) as ended:
        probe.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(
        "usage: python -m worker.probe [-h] [--within-s WITHIN_S] [--ready] file"
    )


def test_the_probe_is_a_module_that_runs(heartbeat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["probe", str(heartbeat)])
    monkeypatch.delitem(sys.modules, "worker.probe")
    with pytest.raises(SystemExit, match="no heartbeat"):
        runpy.run_module("worker.probe", run_name="__main__")
