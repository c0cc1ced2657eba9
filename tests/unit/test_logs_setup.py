"""The destinations of log lines, their levels, and the fields written beside them."""

import json
import logging
import warnings
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.unit.log_output import Output, output
from worker import logs
from worker.logs import Redactor, setup, setup_logging

__all__ = ["output"]


def test_each_form_of_a_secret_is_hidden_in_whole() -> None:
    redactor = Redactor()
    secret = 'pa"ss\\wö\trd'
    redactor.learn([secret])
    for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        assert redactor.redact(f"<{form}>") == "<***>"


def test_logs_go_to_a_file_that_may_be_moved(output: Output, tmp_path: Path) -> None:
    path = tmp_path / "worker.log"
    handler = setup_logging("INFO", stream=output.stream, path=str(path))
    log = logging.getLogger("test")
    log.info("first ☃ \ud83d")
    path.rename(tmp_path / "old")
    log.info("second")
    handler.close()
    assert output.text == ""
    assert (tmp_path / "old").read_text(encoding="utf-8").endswith(" first ☃ \\ud83d\n")
    assert path.read_text(encoding="utf-8").endswith(" second\n")


@pytest.mark.parametrize(
    ("level", "quiet"), [("DEBUG", "WARNING"), ("WARNING", "WARNING"), ("ERROR", "ERROR")]
)
def test_libraries_that_log_bodies_stay_quiet(output: Output, level: str, quiet: str) -> None:
    setup_logging(level, stream=output.stream)
    assert logging.getLevelName(logging.getLogger().level) == level
    levels = {logging.getLevelName(logging.getLogger(name).level) for name in setup._QUIET}
    assert levels == {quiet}
    assert {"groq", "httpx", "openai", "resend", "asyncio"} <= set(setup._QUIET)


def test_warnings_of_python_are_log_lines_too(output: Output) -> None:
    setup_logging("INFO", stream=output.stream)
    warnings.showwarning(UserWarning("odd"), UserWarning, "a.py", 1)
    assert "py.warnings" in output.text
    assert "odd" in output.text


@pytest.mark.parametrize("has_stderr", [True, False])
def test_a_text_that_is_written_beside_the_logs_is_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, *, has_stderr: bool
) -> None:
    written: list[tuple[int, bytes]] = []
    stderr = Mock(fileno=lambda: 7) if has_stderr else None
    monkeypatch.setattr(setup.sys, "__stderr__", stderr)
    monkeypatch.setattr(
        setup.os, "write", lambda descriptor, line: written.append((descriptor, line))
    )
    logs.say_json(" warm shutdown\n", None)
    logs.say_json("why", level="CRITICAL", logger="worker.celery")
    assert [descriptor for descriptor, _ in written] == [7 if has_stderr else 2] * 2
    first, second = (json.loads(line) for _, line in written)
    assert written[0][1].count(b"\n") == 1
    assert first.pop("time").endswith("Z")
    assert first == {"level": "INFO", "logger": "celery.apps.worker", "message": "warm shutdown"}
    assert (second["level"], second["logger"]) == ("CRITICAL", "worker.celery")

    def full(*_: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(setup.os, "write", full)
    logs.say_json("lost")
