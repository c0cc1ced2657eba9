"""Captures log lines in a test, and reads them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from worker.logs import Redactor, setup


class Output:
    """A stream like a process' output, with its encoding."""

    def __init__(self, encoding: str = "ascii") -> None:
        self.raw = io.BytesIO()
        self.stream = io.TextIOWrapper(self.raw, encoding=encoding, write_through=True)

    @property
    def text(self) -> str:
        return self.raw.getvalue().decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    """Restore the configuration of logging after the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in setup._QUIET}
    monkeypatch.setattr(setup, "redactor", Redactor())
    yield Output()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def entry_in(output: Output) -> dict[str, object]:
    (line,) = output.lines
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed
