"""Logs: the shape of the lines, and that no secret and no content is in any of them."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from amqp.exceptions import RecoverableConnectionError
from celery import Celery, Task
from celery.worker import loops, request
from celery.worker.consumer import consumer
from hypothesis import given
from hypothesis import strategies as st
from kombu.message import Message
from pydantic import SecretStr

from config.api_key import make_key
from worker import logs
from worker.logs import Redactor, log_key_failed, log_key_used, log_keys_reset, setup, setup_logging

GROQ = "gsk_abc123" + "D4eF5gH6" * 5 + "iJ"
RESEND = "re_def456Gh_" + "D4eF5gH6" * 3


class Output:
    """A stream as a process has it, with its encoding."""

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
    """Logging as it was comes back afterwards."""
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


def one(output: Output) -> dict[str, object]:
    (line,) = output.lines
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


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
def test_a_secret_is_hidden_wherever_it_stands(log_format: str, output: Output) -> None:
    key = make_key("groq", secret="odd-secret-without-a-shape", variable="GROQ_API_KEY")
    setup_logging(
        "INFO", log_format=log_format, secrets=[key, SecretStr('pa"ss\\wörd')], stream=output.stream
    )
    canaries = ("odd-secret-without-a-shape", 'pa"ss\\wörd', GROQ, RESEND)
    everything = " ".join(canaries)
    log = logging.getLogger("test")
    log.info("in the message " + everything)  # noqa: G003 - a careless call
    log.info("in an argument %s %r", everything, {"key": everything})
    log.info(
        "in extras",
        extra={"deep": {GROQ: [everything, (RESEND, {RESEND})]}, "error": ValueError(everything)},
    )
    try:
        raise RuntimeError(everything) from ValueError(everything)  # noqa: TRY301 - the traceback is the point
    except RuntimeError:
        log.exception("in an exception", stack_info=True)
    log.info("redis://user:p4ss@host:6379/0?password=p4ss and https://h/?token=p4ss")
    assert len(output.lines) == 5
    for canary in (*canaries, "p4ss", json.dumps(canaries[1])[1:-1], repr(canaries[1])[1:-1]):
        assert canary not in output.text
    for label in ("odd-se...", "gsk_abc123...", "re_def456...", "***"):
        assert label in output.text


def test_secrets_learned_later_are_hidden_and_earlier_ones_stay_so() -> None:
    redactor = Redactor()
    redactor.learn([])
    assert redactor.redact("first-secret") == "first-secret"
    redactor.learn(["first-secret"])
    redactor.learn([make_key("resend", secret="second-secret-of-a-key", variable="RESEND_API_KEY")])
    assert redactor.redact("first-secret second-secret-of-a-key") == "*** second..."


def test_a_secret_within_another_does_not_uncover_its_rest() -> None:
    redactor = Redactor()
    redactor.learn(["abcdef", "abcdefghij"])
    assert redactor.redact("abcdefghij abcdef") == "*** ***"


def test_of_a_url_only_the_password_is_hidden() -> None:
    redactor = Redactor()
    redactor.learn(["redis://host:1/0", SecretStr("redis://user:p%40ssword@host:1/0")])
    assert (
        redactor.redact("redis://host:1/0 user p%40ssword p@ssword")
        == "redis://host:1/0 user *** ***"
    )


def test_a_secret_too_short_to_hide_is_ignored() -> None:
    redactor = Redactor()
    redactor.learn(["a", "", "abcdef"])
    assert redactor.redact("a banana") == "a banana"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (GROQ, "gsk_abc123..."),
        (f"Bearer {GROQ}.", "Bearer gsk_abc123...."),
        (f"key='{RESEND}'", "key='re_def456...'"),
        # after an escaped line break, and glued to another word
        (f"\\n{RESEND}", "\\nre_def456..."),
        # the labels, short beginnings and names of Python stay
        ("gsk_abc123... re_def456...", "gsk_abc123... re_def456..."),
        ("core_settings_configuration_module", "core_settings_configuration_module"),
        ("gsk_short re_short", "gsk_short re_short"),
        (f"gsk_{'a' * 19}", f"gsk_{'a' * 19}"),
        ("redis://:p@h/0", "redis://:***@h/0"),
    ],
)
def test_what_has_the_shape_of_a_key_is_hidden_though_unknown(text: str, shown: str) -> None:
    assert Redactor().redact(text) == shown


def test_the_answer_that_an_sdk_quotes_in_its_error_is_not_shown() -> None:
    body = {"error": {"message": "no", "code": "tool_use_failed", "failed_generation": "Dear\nAnn"}}
    for text in (f"Error code: 400 - {body}", repr(ValueError(f"Error code: 400 - {body}"))):
        shown = Redactor().redact(f"raised unexpected: {text}\nnext line")
        assert "Error code: 400 - tool_use_failed (the answer is not shown)\nnext line" in shown
        assert "Ann" not in shown
    assert Redactor().redact("Error code: 500 - Oops") == (
        "Error code: 500 - (the answer is not shown)"
    )


def test_a_text_without_secrets_comes_back_as_it_is() -> None:
    redactor = Redactor()
    redactor.learn([GROQ])
    text = "nothing here"
    assert redactor.redact(text) is text


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
    entry = one(output)
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
    assert one(output)["message"] == "odd"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_current_task_is_named(log_format: str, output: Output) -> None:
    setup_logging("INFO", log_format=log_format, stream=output.stream)
    app = Celery(set_as_current=False)

    @app.task(name="shop.answer", shared=False)  # not for the apps of other tests
    def job() -> None:
        logging.getLogger("worker.x").info("inside")

    assert isinstance(job, Task)
    result = job.apply(task_id="the-id")
    result.get()
    line = next(line for line in output.lines if "inside" in line)
    if log_format == "json":
        assert json.loads(line) | {
            "task_id": "the-id",
            "task_name": "shop.answer",
        } == json.loads(line)
    else:
        assert " worker.x [shop.answer the-id] inside" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_celerys_own_lines_hold_no_arguments_and_no_results(
    log_format: str, output: Output
) -> None:
    setup_logging("DEBUG", log_format=log_format, stream=output.stream)
    app = Celery(set_as_current=False)
    app.conf.task_store_eager_result = False

    @app.task(name="shop.answer", shared=False)  # not for the apps of other tests
    def job(prompt: str) -> str:
        return f"canary-answer {prompt}"

    job.apply(args=("canary-prompt",), task_id="the-id")
    # what the consumer logs on arrival: `celery.worker.strategy`
    context = {
        "id": "the-id",
        "name": "tasks.ai.complete",
        "args": "canary-prompt",
        "kwargs": "{}",
        "eta": None,
    }
    logging.getLogger("celery.worker.strategy").info(
        "Task %(name)s[%(id)s] received", context, extra={"data": context}
    )
    logging.getLogger("celery.pool").debug("Apply %s", "canary-prompt")
    logging.getLogger("groq._base_client").debug("Request options: canary-prompt")
    logging.getLogger("httpx").info("HTTP Request: POST canary-prompt")
    assert "succeeded" in output.text
    assert "received" in output.text
    assert "canary" not in output.text


# What fails in Celery's worker, and whether its traceback is of use.
@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (RecoverableConnectionError("Socket was disconnected"), False),
        (ConnectionResetError(), False),
        (ValueError("a bug"), True),
    ],
)
def test_a_lost_connection_is_one_line_without_a_traceback(
    output: Output, error: Exception, *, traced: bool
) -> None:
    setup_logging("INFO", stream=output.stream)
    channel = Mock(no_ack_consumers=(), **{"basic_ack.side_effect": error})
    message = Message("{}", delivery_tag="1", channel=channel)
    message.ack_log_error(request.logger, (type(error),))
    try:
        raise error
    except type(error):
        loops.logger.exception("Error cleaning up after event loop: %r", error)
    first, second = output.lines
    assert "Couldn't ack '1', reason" in first
    assert "Error cleaning up after event loop" in second
    assert [("Traceback" in line) for line in (first, second)] == [traced] * 2


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
def test_a_file_is_written_like_a_stream_and_opened_anew_once_it_was_moved(tmp_path: Path) -> None:
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
    assert one(output)["message"] == "once"
    assert logging.getLogger().handlers == [handler]


# The templates are Celery's own, so that a change of theirs is noticed.
@pytest.mark.parametrize(
    ("template", "values"),
    [
        (
            consumer.UNKNOWN_TASK_ERROR,
            (KeyError("t"), "CANARY", {"kwargsrepr": "CANARY"}, {}),
        ),  # a misspelt name
        (consumer.INVALID_TASK_ERROR, ("why", "CANARY")),  # a message of another shape
        (
            consumer.MESSAGE_DECODE_ERROR,
            ("why", "text", "utf-8", "CANARY", "CANARY"),
        ),  # broken JSON
        (consumer.UNKNOWN_FORMAT, ("CANARY",)),  # no task at all
    ],
)
def test_a_message_that_cannot_run_is_logged_without_its_content(
    output: Output, template: str, values: tuple[object, ...]
) -> None:
    setup_logging("INFO", stream=output.stream)
    logging.getLogger("celery.worker.consumer.consumer").error(template, *values)
    assert "CANARY" not in output.text
    assert "(not shown)" in output.text


def test_the_error_of_a_body_that_is_no_text_does_not_quote_it(output: Output) -> None:
    setup_logging("INFO", stream=output.stream)
    try:
        b'{"prompt": "canary \xff"}'.decode()
    except UnicodeDecodeError as exc:
        values = (exc, "application/json", "utf-8", "{}", "canary")
        logging.getLogger("celery.worker.consumer.consumer").critical(
            consumer.MESSAGE_DECODE_ERROR, *values, exc_info=True
        )
    assert "UnicodeDecodeError" in output.text
    assert "canary" not in output.text
