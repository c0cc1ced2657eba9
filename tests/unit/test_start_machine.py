"""The messages of a start about the open files that this machine allows."""

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.errors import SettingsError
from config.settings import Settings
from worker.startup import machine

INFINITE = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The limits of open files: a raised limit stays raised."""
    kept = SimpleNamespace(now=(100, 200), raised=[], error=None)

    def raise_to(_: int, to: tuple[int, int]) -> None:
        kept.raised.append(to)
        if kept.error is not None:
            raise kept.error

    monkeypatch.setattr(resource, "getrlimit", lambda _: kept.now)
    monkeypatch.setattr(resource, "setrlimit", raise_to)
    return kept


@pytest.mark.parametrize(
    ("now", "needed", "raised", "allowed"),
    [
        ((100, 200), 100, [], 100),
        ((100, 200), 99, [], 99),
        ((100, 200), 101, [(101, 200)], 101),
        ((100, 200), 300, [(200, 200)], 200),
        ((200, 200), 300, [], 200),
        ((100, INFINITE), 300, [(300, INFINITE)], 300),
        ((INFINITE, INFINITE), 300, [], 300),
        ((-1, -1), 300, [], 300),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_has_to_and_can_be(
    limits: Any, now: tuple[int, int], needed: int, raised: list[Any], allowed: int
) -> None:
    limits.now = now
    assert machine._raise_open_files(needed) == allowed
    assert limits.raised == raised


@pytest.mark.parametrize("error", [ValueError("more than the kernel"), OSError(1, "no")])
def test_a_limit_that_the_kernel_does_not_allow_stays_as_it_was(
    limits: Any, error: Exception
) -> None:
    limits.error = error
    assert machine._raise_open_files(150) == 100


# The jobs, the limit of open files, and the message about it.
@pytest.mark.parametrize(
    ("jobs", "hard", "problem"),
    [
        (136, 200, None),  # 64 files in addition to those of the jobs
        (
            137,
            200,
            (
                "The concurrency of -c or --autoscale (137) needs about 201 open files, and this "
                "process may have 200: lower the number of jobs to 136, or raise the limit "
                "(ulimit -n 201)."
            ),
        ),
        (
            500,
            65,
            (
                "KEYWHEEL_WORKER_CONCURRENCY (500) needs about 564 open files, and this process "
                "may "
                "have 65: lower the number of jobs to 1, or raise the limit (ulimit -n 564)."
            ),
        ),
        (
            500,
            64,
            (
                "KEYWHEEL_WORKER_CONCURRENCY (500) needs about 564 open files, and this process "
                "may "
                "have 64: lower the number of jobs, or raise the limit (ulimit -n 564)."
            ),
        ),
    ],
)
def test_a_worker_of_more_jobs_than_open_files_says_how_many_fit(
    limits: Any, jobs: int, hard: int, problem: str | None
) -> None:
    limits.now = (min(100, hard), hard)
    settings = Settings(worker_concurrency=500)
    assert list(machine._too_few_files(jobs, settings)) == ([problem] if problem else [])


def test_a_start_makes_the_heartbeat_and_ends_if_clients_cannot_be_built(
    limits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits.now = (INFINITE, INFINITE)
    opened: list[Any] = []
    closed: list[str] = []

    class Opened:
        async def close(self) -> None:
            closed.append("closed")

    def open_runtime(*arguments: Any) -> Opened:
        opened.append(arguments)
        return Opened()

    monkeypatch.setattr(machine, "open_runtime", open_runtime)
    settings = Settings(heartbeat_path=str(tmp_path / "heartbeat"))
    machine.check_machine(settings, {}, {})
    assert opened == [(settings, {})]
    assert closed == ["closed"]
    assert (tmp_path / "heartbeat").exists()

    def fail(*_: Any) -> Opened:
        raise ValueError("a base URL")

    monkeypatch.setattr(machine, "open_runtime", fail)
    with pytest.raises(SettingsError) as caught:
        machine.check_machine(Settings(), {}, {})
    sentence = "The clients that jobs use cannot be built (ValueError: a base URL)."
    assert list(caught.value.sentences) == [sentence]
