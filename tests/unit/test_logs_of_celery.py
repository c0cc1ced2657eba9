"""Celery's own log lines: they name the task, and contain neither arguments nor results."""

import json
import logging
from unittest.mock import Mock

import pytest
from amqp.exceptions import RecoverableConnectionError
from celery import Celery, Task
from celery.worker import loops, request
from celery.worker.consumer import consumer
from kombu.message import Message

from tests.unit.log_output import Output, output
from worker.logs import setup_logging

__all__ = ["output"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_current_task_is_named(log_format: str, output: Output) -> None:
    setup_logging("INFO", log_format=log_format, stream=output.stream)
    app = Celery(set_as_current=False)

    @app.task(name="shop.answer", shared=False)  # hidden from the apps of other tests
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

    @app.task(name="shop.answer", shared=False)  # hidden from the apps of other tests
    def job(prompt: str) -> str:
        return f"canary-answer {prompt}"

    job.apply(args=("canary-prompt",), task_id="the-id")
    # the consumer's log line at the arrival: `celery.worker.strategy`
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


# The failure in Celery's worker, and whether its traceback helps.
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


# The templates are Celery's own, so that the test fails if Celery changes them.
@pytest.mark.parametrize(
    ("template", "values"),
    [
        (
            consumer.UNKNOWN_TASK_ERROR,
            (KeyError("t"), "CANARY", {"kwargsrepr": "CANARY"}, {}),
        ),  # a misspelt name
        (consumer.INVALID_TASK_ERROR, ("why", "CANARY")),  # a message of another format
        (
            consumer.MESSAGE_DECODE_ERROR,
            ("why", "text", "utf-8", "CANARY", "CANARY"),
        ),  # broken JSON
        (consumer.UNKNOWN_FORMAT, ("CANARY",)),  # not a task at all
    ],
)
def test_a_message_that_cannot_run_is_logged_without_its_content(
    output: Output, template: str, values: tuple[object, ...]
) -> None:
    setup_logging("INFO", stream=output.stream)
    logging.getLogger("celery.worker.consumer.consumer").error(template, *values)
    assert "CANARY" not in output.text
    assert "(not shown)" in output.text


def test_the_error_of_a_body_that_cannot_be_decoded_does_not_quote_it(output: Output) -> None:
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
