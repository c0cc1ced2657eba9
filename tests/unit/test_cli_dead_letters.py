"""Which dead letters a command line selects, and what the commands print about them."""

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import click
import pytest
from click.testing import CliRunner, Result

from worker.cli import dead_letters
from worker.cli.dead_letters import dead
from worker.deadletters.replay import Replayed
from worker.deadletters.store import Filter

ENDED_MS = 1_000_000_000_000
NOW_MS = 1_800_000_000_000


class Store:
    """Dead letters by the ids of their jobs; `calls` has the look-ups and deletions."""

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
        return len(letters) - 1  # another person was faster

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


# The command line, and the request to the store.
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


# The outcome of a replay, the printed lines, and the exit status.
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


LETTER = SimpleNamespace(as_json=lambda: {"id": "job-1"})


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The dead letters that are found."""
    letters: list[Any] = [LETTER]
    counts = {"total": 2, "bytes": 1_250_000}
    monkeypatch.setattr(dead_letters, "_run", lambda _: (letters, counts))
    monkeypatch.setattr(dead_letters.dead_listing, "listing", lambda letters: f"<{len(letters)}>")
    return letters


def test_dead_letters_are_listed_with_how_many_there_are(listed: list[Any]) -> None:
    result = CliRunner().invoke(dead, ["list"])
    assert result.output == "<1>\n1 shown of 2 dead letters, 1.2 MB\n"
    as_json = CliRunner().invoke(dead, ["list", "--json"])
    listing = {"total": 2, "bytes": 1_250_000, "dead_letters": [{"id": "job-1"}]}
    assert as_json.output == json.dumps(listing, indent=2) + "\n"
    listed.clear()
    assert CliRunner().invoke(dead, ["list"]).output == "0 shown of 2 dead letters, 1.2 MB\n"


@pytest.mark.parametrize(
    ("letters", "yes", "terminal", "ends"),
    [
        ([], False, True, SystemExit),
        ([], True, False, SystemExit),
        ([LETTER], True, False, None),
        ([LETTER], False, False, click.UsageError),
    ],
)
def test_a_deletion_needs_a_terminal_or_yes_and_a_dead_letter_to_delete(
    monkeypatch: pytest.MonkeyPatch,
    *,
    letters: list[Any],
    yes: bool,
    terminal: bool,
    ends: type[BaseException] | None,
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    if ends is None:
        dead_letters._confirm("Delete?", letters, yes=yes)
        return
    with pytest.raises(ends) as ended:
        dead_letters._confirm("Delete?", letters, yes=yes)
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == 0


def test_a_person_at_a_terminal_is_asked_to_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[Any] = []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click, "confirm", lambda text, *, abort: questions.append((text, abort)))
    dead_letters._confirm("Delete?", [LETTER], yes=False)  # type: ignore[list-item]
    assert questions == [("Delete?", True)]


CALL = {"at_ms": 0, "key": "gsk_abc123...", "code": "rate_limit", "in_doubt": True}
FULL = SimpleNamespace(
    id="job-1", task="t", queue="ai", at_ms=0, kind="failed", reason="why", since_ms=0, calls=2,
    faults=1, deferrals=3, worker="", size=1_234, attempts=[CALL, CALL | {"in_doubt": False}],
    as_json=lambda: {"id": "job-1"},
)  # fmt: skip


def test_a_dead_letter_is_shown_with_its_calls_and_its_arguments_if_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = SimpleNamespace(raw=None, args=[], kwargs={"prompt": "canary"}, options={})
    monkeypatch.setattr(dead_letters, "_run", lambda _: (FULL, message))
    monkeypatch.setattr(dead_letters, "objection", lambda *_, **__: None)
    lines = CliRunner().invoke(dead, ["show", "job-1"]).output.splitlines()
    assert lines[:8] == [
        "job     job-1",
        "task    t (queue ai)",
        "ended   1970-01-01 00:00:00 UTC, failed",
        "reason  why",
        "began   never",
        "tries   2 calls, 1 failures of the provider, 3 deferrals",
        "worker  unknown",
        "replay  possible",
    ]
    calls = [line for line in lines if "gsk_abc123..." in line]
    assert ["yes" in line for line in calls] == [True, False]
    assert lines[-1] == "1,234 bytes of arguments are kept; --arguments shows them"
    assert "canary" not in "".join(lines)
    assert CliRunner().invoke(dead, ["show", "job-1", "--json"]).output == (
        json.dumps({"id": "job-1"}, indent=2) + "\n"
    )
    content = {"args": [], "kwargs": {"prompt": "canary"}, "options": {}}
    result = CliRunner().invoke(dead, ["show", "job-1", "--json", "--arguments"])
    assert json.loads(result.output) == {"id": "job-1", "arguments": content}
    result = CliRunner().invoke(dead, ["show", "job-1", "--arguments"])
    assert result.output.endswith(json.dumps(content, indent=2) + "\n")


def test_a_terminal_shows_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = MagicMock(pos=0)
    bar.__enter__.return_value = bar
    bar.update.side_effect = lambda steps: setattr(bar, "pos", bar.pos + steps)
    shown: list[Any] = []
    monkeypatch.setattr(
        click, "progressbar", lambda **options: (shown.append(options["hidden"]), bar)[1]
    )
    monkeypatch.setattr(dead_letters, "_run", lambda command: asyncio.run(command(None)))

    async def work(_: Any, progress: Any) -> str:
        for done, at in ((1, 1), (3, 3), (4, 4)):
            progress(done)
            assert bar.pos == at
        return "done"

    for is_terminal in (True, False):
        bar.pos = 0
        monkeypatch.setattr(sys, "stderr", Mock(isatty=Mock(return_value=is_terminal)))
        assert dead_letters._with_progress("dropping", [LETTER] * 4, work) == "done"  # type: ignore[list-item]
    assert shown == [False, True]
