"""The options of Flower's command, how a key is drained, and what is printed of dead letters."""

import asyncio
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import click
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from config.settings import Settings
from worker.cli import dead_letters, flower, key_changes
from worker.cli.dead_letters import dead


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's command, as Celery's command line has loaded it."""
    module: Any = ModuleType("flower.command")
    module.options = SimpleNamespace(address="", port=0, max_tasks=0, basic_auth=[])
    module.flower = SimpleNamespace(callback=lambda: "ran")
    monkeypatch.setitem(sys.modules, "flower.command", module)
    return module


@pytest.mark.parametrize(
    ("auth", "logins"), [(None, []), (SecretStr("ann:a, bob:b"), ["ann:a", "bob:b"])]
)
def test_flower_gets_our_application_address_and_logins(
    command: Any, auth: Any, logins: list[str]
) -> None:
    before = command.flower.callback
    settings = Settings(flower_address="10.0.0.1", flower_port=5566, flower_basic_auth=auth)
    flower.install(settings)
    assert command.Flower is flower._our_flower
    assert command.flower.callback is not before
    assert vars(command.options) == {
        "address": "10.0.0.1", "port": 5566, "max_tasks": 10_000, "basic_auth": logins
    }  # fmt: skip


def test_a_worker_that_has_not_loaded_flower_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flower.command", None)
    flower.install(Settings())


def test_our_flower_is_made_only_with_options_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    flowers: list[Any] = []
    monkeypatch.setattr("worker.dashboard.KeysFlower", lambda **given: flowers.append(given))
    works = SimpleNamespace(port=0, persistent=False, certfile="", keyfile="")
    flower._our_flower(options=works, capp="app")
    assert flowers == [{"options": works, "capp": "app"}]
    with pytest.raises(ValueError, match="--port must be at most 65535, and is 65536"):
        flower._our_flower(options=SimpleNamespace(port=65_536))
    flower.check_options(SimpleNamespace(**vars(works) | {"port": 65_535}))
    with pytest.raises(ValueError, match="and is -1"):
        flower.check_options(SimpleNamespace(**vars(works) | {"port": -1}))


async def test_a_key_is_drained_once_no_call_with_it_is_in_flight(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, slept = [2, 2, 1, 0], []

    class Pool:
        async def snapshot(self) -> Any:
            keys = (
                SimpleNamespace(id="other", label="other", in_flight=9),
                SimpleNamespace(id="a", label="gsk_a...", in_flight=counts.pop(0)),
            )
            return SimpleNamespace(keys=keys)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(key_changes.asyncio, "sleep", sleep)
    await key_changes._drained(Pool(), "a")  # type: ignore[arg-type]
    output = capsys.readouterr()
    assert output.err == "gsk_a...: 2 calls in flight\ngsk_a...: 1 call in flight\n"
    assert output.out == ""
    assert slept == [key_changes._LOOK_S] * 3


LETTER = SimpleNamespace(as_json=lambda: {"id": "job-1"})


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The letters that are found."""
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
