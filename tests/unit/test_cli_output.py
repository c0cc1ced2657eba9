"""How a command ends if its output cannot be written."""

import io
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import click
import pytest
from rich.console import Console

from tests.pages import ROOT
from worker.cli.output import OutputCommand, OutputGroup

TEXT = "\N{ROCKET} a half: \ud83d"
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
COMMANDS = [*GROUPS["celery.commands"].values()]


def of_a_group(callback: Callable[[], None]) -> click.Command:
    return OutputGroup(commands={"one": click.Command("one", callback=callback)})


def alone(callback: Callable[[], None]) -> click.Command:
    return OutputCommand("one", callback=callback)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_of_our_commands_is_an_output_command(name: str) -> None:
    assert isinstance(resolve_name(name), OutputCommand)


@pytest.mark.parametrize(("make", "args"), [(of_a_group, ["one"]), (alone, [])])
def test_a_full_disk_ends_a_command_with_a_sentence(
    make: Callable[[Callable[[], None]], click.Command],
    args: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(click.ClickException, match="cannot be written: No space left"):
            make(lambda: click.echo("x")).main(args, standalone_mode=False)


def test_any_other_error_of_the_system_is_raised() -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "No such file")

    with pytest.raises(FileNotFoundError):
        alone(fail).main([], standalone_mode=False)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("latin-1", r"\U0001f680 a half: \ud83d"), ("utf-8", "🚀 a half: \\ud83d")],
)
def test_characters_that_an_encoding_lacks_are_escaped(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    alone(lambda: click.echo(TEXT)).main([], standalone_mode=False)
    output.seek(0)
    assert output.read() == f"{shown}\n"


def test_a_terminal_of_no_columns_shows_as_much_as_one_of_eighty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    widths: list[int] = []
    monkeypatch.setenv("COLUMNS", "0")
    command = alone(lambda: widths.append(Console().width))
    command.main([], standalone_mode=False)
    assert widths == [80]
