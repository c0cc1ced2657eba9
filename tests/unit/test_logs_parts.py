"""How a log line shows the parts of a record other than its message."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from config.api_key import make_key
from tests.unit.log_output import Output, entry_in, output
from tests.unit.sample_keys import GROQ
from worker.logs import setup, setup_logging

__all__ = ["output"]

Emit = Callable[..., None]


@pytest.fixture
def emit(output: Output) -> Emit:
    """Log a record with these attributes, as JSON unless a test asks for text."""

    def log(name: str = "worker.x", *, log_format: str = "json", **about: Any) -> None:
        setup_logging("INFO", log_format=log_format, stream=output.stream)
        record = {"msg": "m", "name": name, "levelno": 20, "levelname": "INFO"} | about
        logging.getLogger(name).handle(logging.makeLogRecord(record))

    return log


# A value of a record's field, and its form in the line; levels below the fourth become text.
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": [1, (2.5, None)], 7: True}, {"a": [1, [2.5, None]], "7": True}),
        ([{3}, frozenset({4})], [[3], [4]]),
        ([[[["deepest"]]]], [[[["deepest"]]]]),
        ([[[[["too deep"]]]]], [[[["['too deep']"]]]]),
        ({1: {2: {3: {4: 5}}}}, {"1": {"2": {"3": {"4": 5}}}}),
        ({1: {2: {3: {4: {5: 6}}}}}, {"1": {"2": {"3": {"4": "{5: 6}"}}}}),
        ({GROQ: [GROQ, float("inf")]}, {"gsk_abc123...": ["gsk_abc123...", "inf"]}),
    ],
)
def test_a_field_keeps_its_form_down_to_the_fourth_level(
    emit: Emit, output: Output, value: Any, shown: Any
) -> None:
    emit(field=value)
    assert entry_in(output)["field"] == shown


def test_a_traceback_and_a_stack_follow_the_fields(emit: Emit, output: Output) -> None:
    with pytest.raises(ValueError, match="invalid") as raised:
        int(GROQ)
    exc = raised.value
    about = {"exc_info": (ValueError, exc, exc.__traceback__), "stack_info": f"Stack\n {GROQ}"}
    emit(log_format="text", **about, field=1)
    [line] = output.lines
    head, _, tail = line.partition(" worker.x m field=1 | ")
    assert head.endswith("Z INFO    ")
    assert tail.startswith("Traceback (most recent call last): | ")
    assert tail.endswith(": 'gsk_abc123...' | Stack |  gsk_abc123...")
    emit(**about)
    entry = json.loads(output.lines[-1])
    assert entry["exception"].endswith(": 'gsk_abc123...'")
    assert entry["stack"] == "Stack\n gsk_abc123..."


def test_a_record_without_an_error_has_neither(emit: Emit, output: Output) -> None:
    emit(exc_info=(None, None, None))  # as for `exception()` outside an `except`
    assert entry_in(output).keys() == {"time", "level", "logger", "message"}


def test_the_data_of_a_record_is_shown_in_json_alone(emit: Emit, output: Output) -> None:
    emit(data={"id": "job-1"})
    emit(log_format="text", data={"id": "job-1"}, field="a")
    assert json.loads(output.lines[0])["data"] == {"id": "job-1"}
    assert output.lines[1].endswith(" worker.x m field=a")


def test_a_control_character_is_shown_by_its_number(emit: Emit, output: Output) -> None:
    emit(log_format="text", msg="a\x00b\x1b[2Jc\x7f\x9bd\te")
    assert output.lines[0].endswith(r" a\x00b\x1b[2Jc\x7f\x9bd" + "\te")
    emit(msg="a\x85b\u2028c")
    assert r'"a\u0085b\u2028c"' in output.lines[1]


# --- parts that Celery's own records lose


CONTEXT = {"id": "job-1", "name": "t", "args": "canary", "kwargs": "canary", "runtime": 1.5}


def test_a_context_of_celery_loses_its_content(emit: Emit, output: Output) -> None:
    emit("celery.worker.strategy", data=CONTEXT)
    emit("shop.orders", data=CONTEXT)
    emit("celery.worker.strategy", data="text")
    of_celery, of_the_user, text = (json.loads(line)["data"] for line in output.lines)
    assert of_celery == {"id": "job-1", "name": "t", "runtime": 1.5}
    assert of_the_user == CONTEXT
    assert text == "text"


@pytest.mark.parametrize(
    ("name", "msg", "args", "shown"),
    [
        ("celery.app.trace", "%(id)s: %(return_value)s", {"id": 1, "return_value": "canary"},
         "1: (not shown)"),
        ("celery.app.trace", "%(id)s", {"id": 1}, "1"),
        ("celery.worker.x", "%s and %s", (1, 2), "1 and 2"),
        ("shop.orders", "%(return_value)s", {"return_value": 3}, "3"),
        ("shop.orders", "Received and deleted unknown message: %s", ("mine",),
         "Received and deleted unknown message: mine"),
        ("celery.worker.x", "Received unregistered task of %s: %s %s %s", ("t", "canary", "canary",
         "{}"), "Received unregistered task of t: (not shown) (not shown) {}"),
        ("celery.worker.x", "Received invalid task message: %s %s", ("why", "canary"),
         "Received invalid task message: why (not shown)"),
        ("celery.worker.x", "Can't decode message body: %r %s %s %s %s",
         (ValueError("canary"), "json", "utf-8", "canary", "canary"),
         "Can't decode message body: <class 'ValueError'> json utf-8 (not shown) (not shown)"),
    ],
)  # fmt: skip
def test_celerys_lines_lose_content_and_nothing_else(
    emit: Emit, output: Output, *, name: str, msg: str, args: Any, shown: str
) -> None:
    emit(name, msg=msg, args=args)
    assert entry_in(output)["message"] == shown


# The record's logger, its error, and whether its traceback helps.
@pytest.mark.parametrize(
    ("name", "error", "traced"),
    [
        ("celery.worker.consumer", ConnectionResetError("gone"), False),
        ("celery.worker.consumer", ValueError("a bug"), True),
        ("celery.app.trace", ConnectionResetError("of a job"), True),
        ("worker.x", ConnectionResetError("of ours"), True),
    ],
)
def test_only_the_workers_own_lost_connections_have_no_traceback(
    emit: Emit, output: Output, *, name: str, error: Exception, traced: bool
) -> None:
    emit(name, exc_info=(type(error), error, None), exc_text="cached")
    assert ("exception" in entry_in(output)) is traced


# --- secrets


def test_a_secret_is_hidden_from_six_characters_on(emit: Emit, output: Output) -> None:
    setup.redactor.learn(["12345", "abcdef", make_key("groq", secret="short!", variable="V")])
    emit(msg="12345 abcdef short!")
    label = make_key("groq", secret="short!", variable="V").label
    assert entry_in(output)["message"] == f"12345 *** {label}"
