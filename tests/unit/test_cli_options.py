"""The command line that scripts rely on: its flags, bounds, required options and help."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from worker.cli.cancel import cancel
from worker.cli.dead_letters import dead
from worker.cli.job import job
from worker.cli.keys import keys
from worker.cli.quote import quote


def commands(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    path = f"{path} {command.name}".strip()
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from commands(inner, path)
    else:
        yield path, command


COMMANDS = {
    path: command
    for parameter in (keys, dead, job, cancel, quote)
    for path, command in commands(parameter)
}
FLAGS = {
    "dead drop": {"--all", "--yes"},
    "dead list": {"--json"},
    "dead replay": {"--all", "--force", "--yes", "--json"},
    "dead show": {"--arguments", "--json"},
    "job": {"--json"},
    "keys audit": {"--people"},
    "keys check": {"--json"},
    "keys disable": {"--drain"},
    "keys drift": {"--json", "--forget"},
    "keys reset": {"--include-disabled"},
    "keys status": {"--json", "--watch"},
    "keys usage": {"--csv", "--json"},
    "quote": {"--json"},
}
SHOWN_DEFAULTS = {
    ("dead list", "--limit"): 50,
    ("keys audit", "--count"): 30,
    ("keys disable", "--reason"): "by hand",
    ("keys pause", "--reason"): "by hand",
    ("keys usage", "--by"): "key",
    ("keys usage", "--range"): "day",
    ("quote", "--jobs"): 1,
}


def test_only_these_options_take_no_value() -> None:
    flags_of = {
        path: {option.opts[0] for option in command.params if getattr(option, "is_flag", False)}
        for path, command in COMMANDS.items()
    }
    assert {path: flags for path, flags in flags_of.items() if flags} == FLAGS


def test_the_help_shows_each_default_that_is_not_explained() -> None:
    defaults = {
        (path, option.opts[0]): option.default
        for path, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag and option.show_default
    }
    assert defaults == SHOWN_DEFAULTS
    for (path, _), default in SHOWN_DEFAULTS.items():
        result = CliRunner().invoke(COMMANDS[path], ["--help"])
        assert f"[default: {default}" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "path", ["job", "cancel", "dead show", "keys disable", "keys enable", "keys note", "keys pause"]
)
def test_a_command_without_arguments_says_what_is_missing(path: str) -> None:
    result = CliRunner().invoke(COMMANDS[path], [])
    assert result.exit_code == 2
    assert "Missing argument" in result.output


# An option, the values at its bounds, and those beyond them.
@pytest.mark.parametrize(
    ("path", "option", "least", "most"),
    [
        ("dead list", "limit", 1, 100_000),
        ("keys audit", "count", 1, 1_000),
        ("quote", "jobs", 1, 10_000_000),
        ("quote", "tokens", 1, 10_000_000),
    ],
)
def test_a_number_has_its_bounds(path: str, option: str, least: int, most: int) -> None:
    [kind] = [parameter.type for parameter in COMMANDS[path].params if parameter.name == option]
    for taken in (least, most):
        assert kind.convert(str(taken), None, None) == taken
    for refused in (least - 1, most + 1):
        with pytest.raises(click.BadParameter):
            kind.convert(str(refused), None, None)


def test_a_bug_in_reading_the_prices_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.cli.usage.read_prices", lambda: 1 / 0)
    result = CliRunner().invoke(COMMANDS["keys usage"], [])
    assert isinstance(result.exception, ZeroDivisionError)
