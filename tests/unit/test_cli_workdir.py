"""The message about a folder that Celery's `--workdir` cannot enter."""

import sys
from types import ModuleType
from typing import Any

import pytest

from worker.cli import workdir


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Errors that reach Python's own hook."""
    passed_on: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *given: passed_on.append(given))
    return passed_on


def missing() -> None:
    raise FileNotFoundError(2, "No such file or directory", "/gone")


def raised_in(module: str, source: str) -> Any:
    """Return the hook's arguments for an error in a line of a module."""
    try:
        exec(source, {"__name__": module, "missing": missing})  # noqa: S102 - its line
    except (OSError, ValueError) as exc:
        return type(exc), exc, exc.__traceback__


def test_a_folder_that_celery_cannot_enter_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, hooks: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "celery.bin.celery"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    workdir.install()
    enters = "raise FileNotFoundError(2, 'No such file or directory', '/gone')"
    sys.excepthook(*raised_in(name, enters))
    assert (capsys.readouterr().err, hooks) == (
        (
            "The folder of --workdir, /gone, cannot be entered (No such file or directory): make "
            "it, or name another.\n"
        ),
        [],
    )

    passed_on = [
        raised_in(name, "raise ValueError"),
        raised_in("theirs", enters),
        raised_in(name, "missing()"),  # in the module that the command line ran
        (OSError, OSError(), None),
    ]
    for each in passed_on:
        sys.excepthook(*each)
    assert (capsys.readouterr().err, hooks) == ("", passed_on)


def test_a_process_that_is_not_a_command_of_celery_keeps_its_hook(
    monkeypatch: pytest.MonkeyPatch, hooks: list[Any]
) -> None:
    before = sys.excepthook
    monkeypatch.delitem(sys.modules, "celery.bin.celery", raising=False)
    workdir.install()
    assert sys.excepthook is before
