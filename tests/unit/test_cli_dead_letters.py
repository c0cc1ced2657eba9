"""Which dead letters a command line selects, and what is printed of their replay and deletion."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from worker.cli import dead_letters
from worker.cli.dead_letters import dead
from worker.deadletters.replay import Replayed
from worker.deadletters.store import Filter

ENDED_MS = 1_000_000_000_000
NOW_MS = 1_800_000_000_000


class Store:
    """Dead letters by the ids of their jobs; `calls` has what was looked for and deleted."""

    def __init__(self, count: int) -> None:
        self.letters = {
            f"job-{number}": SimpleNamespace(id=f"job-{number}", at_ms=ENDED_MS)
            for number in range(count)
        }
        self.calls: list[Any] = []
        self.replayed: list[Any] = []
        self.outcome = Replayed()

    async def get(self, job: str) -> Any:
        return self.letters[job], "its message"

    async def find(self, which: Filter, *, limit: int) -> list[Any]:
        self.calls.append((which, limit))
        return list(self.letters.values())

    async def delete(self, letters: list[Any], *, by: str) -> int:
        self.calls.append(([letter.id for letter in letters], by))
        return len(letters) - 1  # somebody else was quicker

    async def replay(self, _: Any, letters: list[Any], *, progress: Any, **options: Any) -> Any:
        self.replayed.append(([letter.id for letter in letters], options))
        progress(len(letters))
        return self.outcome


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    letters: Any = Store(3)
    monkeypatch.setattr(dead_letters, "_run", lambda command: asyncio.run(command(letters)))
    monkeypatch.setattr(dead_letters, "replay", letters.replay)
    monkeypatch.setattr(dead_letters, "current_user", lambda: "ann")
    monkeypatch.setattr(dead_letters, "_now_ms", lambda: NOW_MS)
    ready: Store = letters
    return ready


def run_dead(*typed: str) -> Result:
    return CliRunner().invoke(dead, typed, obj=SimpleNamespace(app="the app"))


# What is typed, and what the store is asked for.
@pytest.mark.parametrize(
    ("typed", "which"),
    [
        (["--all"], Filter()),
        (["--service", "groq"], Filter(service="groq")),
        (["--task", "t", "--kind", "failed"], Filter(task="t", kind="failed")),
        (["--search", "x"], Filter(search="x")),
        (["--before", "2001-09-09"], Filter(before_ms=999_993_600_000)),
        (
            ["--kind", "failed", "--before", "2001-09-09"],
            Filter(kind="failed", before_ms=999_993_600_000),
        ),
    ],
)
@pytest.mark.parametrize("command", ["drop", "replay"])
def test_options_select_dead_letters(
    store: Store, command: str, typed: list[str], which: Filter
) -> None:
    result = run_dead(command, *typed, "--yes")
    assert result.exception is None
    assert store.calls[0] == (which, 1_000_000)


@pytest.mark.parametrize(
    "typed", [[], ["job-1", "--all"], ["job-1", "--kind", "failed"], ["--all", "--kind", "failed"]]
)
@pytest.mark.parametrize("command", ["drop", "replay"])
def test_a_command_line_that_selects_nothing_or_in_two_ways_is_refused(
    store: Store, command: str, typed: list[str]
) -> None:
    result = run_dead(command, *typed, "--yes")
    assert result.exit_code == 2
    assert "name the jobs: by ids, by options such as --kind, or by --all" in result.output
    assert (store.calls, store.replayed) == ([], [])


def test_jobs_that_are_named_are_dropped_once_and_without_a_question(store: Store) -> None:
    result = run_dead("drop", "job-2", "job-0", "job-2")
    assert (result.output, store.calls) == ("1 dropped\n", [(["job-2", "job-0"], "cli ann")])


@pytest.mark.parametrize(
    ("before", "is_seen"), [("2001-09-09T01:46:40.001Z", True), ("2001-09-09T01:46:40Z", False)]
)
def test_a_job_that_has_died_again_since_it_was_seen_is_left(
    store: Store, before: str, *, is_seen: bool
) -> None:
    result = run_dead("drop", "job-1", "--before", before)
    assert (result.exit_code == 0) is is_seen
    assert bool(store.calls) is is_seen
    assert ("it has died again" in result.output) is not is_seen


def test_many_dead_letters_are_dropped_some_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "_CHUNK", 2)
    assert run_dead("drop", "--all", "--yes").output == "1 dropped\n"
    assert [jobs for jobs, _ in store.calls[1:]] == [["job-0", "job-1"], ["job-2"]]


REFUSED = tuple((f"job-{number}", "too late") for number in range(12))


# What became of a replay, what is said, and the exit status.
@pytest.mark.parametrize(
    ("outcome", "lines", "status"),
    [
        (Replayed(("job-0", "job-1", "job-2")), ["3 of 3 jobs sent again"], 0),
        (
            Replayed(("job-0",), REFUSED[1:3]),
            [
                "1 of 3 jobs sent again",
                "job-1 is not sent again: too late",
                "job-2 is not sent again: too late",
            ],
            0,
        ),
        (
            Replayed((), REFUSED[:1]),
            ["0 of 3 jobs sent again", "job-0 is not sent again: too late"],
            1,
        ),
        (
            Replayed((), REFUSED),
            [
                "0 of 3 jobs sent again",
                *(f"job-{number} is not sent again: too late" for number in range(10)),
                "… and 2 more (--json lists them)",
            ],
            1,
        ),
    ],
)
def test_a_replay_says_what_became_of_each_job(
    store: Store, outcome: Replayed, lines: list[str], status: int
) -> None:
    store.outcome = outcome
    result = run_dead("replay", "--all", "--yes", "--force")
    assert (result.output.splitlines(), result.exit_code) == (lines, status)
    options = {"app": "the app", "by": "cli ann", "now_ms": NOW_MS, "force": True}
    assert store.replayed == [(["job-0", "job-1", "job-2"], options)]
    as_json = run_dead("replay", "job-1", "--json")
    assert json.loads(as_json.output) == outcome.as_json()
    assert store.replayed[1] == (["job-1"], options | {"force": False})
