"""Logs: the format of the lines, and their destination."""

import io
import logging
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.log_output import Output, entry_in, output
from tests.unit.sample_keys import GROQ
from worker import logs
from worker.logs import Redactor, log_key_failed, log_key_used, log_keys_reset, setup_logging

__all__ = ["output"]


def test_the_four_lines_about_keys_are_exactly_these(output: Output) -> None:
    setup_logging("INFO", stream=output.stream)
    log_key_used("gsk_abc123...", service="groq", attempt=1, attempts=3)
    log_key_used("re_def456...", service="resend", attempt=1, attempts=2)
    log_key_failed("gsk_abc123...", failed=1, total=3)
    log_keys_reset("groq")
    log_keys_reset("resend")
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    assert [re.sub(f"^{stamp}", "", line) for line in output.lines] == [
        "INFO     worker.keys 🤖 Using Groq key: gsk_abc123... (attempt 1/3)",
        "INFO     worker.keys 📧 Using Resend key: re_def456... (attempt 1/2)",
        "WARNING  worker.keys 🚨 API key marked as failed: gsk_abc123... (1/3 failed)",
        "INFO     worker.keys 🔄 Groq failed keys reset",
        "INFO     worker.keys 🔄 Resend failed keys reset",
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
@given(text=st.text())
def test_any_message_is_one_line(log_format: str, text: str) -> None:
    formatter = (logs.JsonFormatter if log_format == "json" else logs.TextFormatter)(Redactor())
    record = logging.makeLogRecord(
        {"msg": "%s", "args": (text,), "name": text, "levelname": "INFO", "extra": text}
    )
    line = formatter.format(record)
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


def test_json_holds_the_fields_of_the_record(output: Output) -> None:
    setup_logging("INFO", log_format="json", stream=output.stream)
    extra = {
        "wait_s": 1.5,
        "ok": True,
        "none": None,
        "level": "taken",
        "odd": float("nan"),
        "_hidden": 1,
    }
    logging.getLogger("worker.x").warning("grün 🤖 %d", 7, extra=extra)
    entry = entry_in(output)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(entry.pop("time")))
    assert entry == {
        "level": "WARNING",
        "logger": "worker.x",
        "message": "grün 🤖 7",
        "wait_s": 1.5,
        "ok": True,
        "none": None,
        "extra_level": "taken",
        "odd": "nan",
    }


def test_a_value_that_holds_itself_is_still_a_line(output: Output) -> None:
    setup_logging("INFO", log_format="json", stream=output.stream)
    endless: list[object] = []
    endless.append({"again": endless})
    logging.getLogger("worker.x").warning("odd", extra={"value": endless})
    assert entry_in(output)["message"] == "odd"


def test_a_wrong_log_call_is_still_a_line(output: Output) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    setup_logging("INFO", stream=output.stream)
    logging.getLogger("test").info("%d %d", "a")  # noqa: PLE1206
    logging.getLogger("test").info("broken", extra={"value": Broken()})
    assert output.lines[0].endswith("%d %d (its arguments do not fit)")
    assert output.lines[1].endswith("broken value=<Broken>")


def test_a_cached_exception_text_is_shown_too(output: Output) -> None:
    setup_logging("INFO", stream=output.stream)
    logging.getLogger().handle(
        logging.makeLogRecord({"msg": "m", "name": "n", "levelno": 20, "exc_text": f"a\nb {GROQ}"})
    )
    assert output.lines[0].endswith("n m | a | b gsk_abc123...")


def test_any_locale_can_carry_the_lines(output: Output) -> None:
    setup_logging("INFO", stream=output.stream)
    logging.getLogger("test").info("🤖 \udcff")
    assert output.lines[0].endswith("🤖 \\udcff")


def test_levels_are_obeyed_and_standard_error_is_the_default(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    setup_logging("ERROR")
    logging.getLogger("test").warning("quiet")
    logging.getLogger("httpx").error("heard")
    assert stream.getvalue().endswith(" heard\n")
    assert "quiet" not in stream.getvalue()


@pytest.mark.usefixtures("output")
def test_a_file_is_written_like_a_stream_and_opened_again_once_it_was_moved(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    handler = setup_logging("INFO", path=str(file))
    logging.getLogger("test").info("to the file, without %s", GROQ)
    file.rename(tmp_path / "worker.log.1")
    logging.getLogger("test").info("🤖 to the next one")
    handler.close()
    first, second = (path.read_text(encoding="utf-8") for path in (tmp_path / "worker.log.1", file))
    assert first.endswith(" to the file, without gsk_abc123...\n")
    assert second.endswith(" 🤖 to the next one\n")
    with pytest.raises(OSError, match="No such file"):
        setup_logging("INFO", path=str(tmp_path / "none" / "worker.log"))


def test_a_second_setup_replaces_the_first(output: Output) -> None:
    setup_logging("INFO", stream=output.stream)
    handler = setup_logging("INFO", log_format="json", stream=output.stream)
    logging.getLogger("test").info("once")
    assert entry_in(output)["message"] == "once"
    assert logging.getLogger().handlers == [handler]
