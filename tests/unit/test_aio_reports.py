"""If the report of a job's end fails, no message stays unsettled."""

import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
from celery.exceptions import BackendError
from celery.worker.request import Request
from kombu.exceptions import OperationalError

from worker.aio.reports import Callbacks, report, settle

BUG = ValueError("a bug")
JOB = "tasks.ai.x[job-1]"


def request_of(**raises: Exception) -> Any:
    """A request some of whose methods raise."""
    request = Mock(spec=Request)
    request.humaninfo.return_value = JOB
    for name, error in raises.items():
        getattr(request, name).side_effect = error
    return request


# The exception of the report, and whether the result store raised it.
@pytest.mark.parametrize(
    ("error", "of_store"),
    [
        (redis.ConnectionError("gone"), True),
        (redis.ResponseError("OOM"), True),
        (BackendError("no"), True),
        (OperationalError("no"), True),
        (OSError("reset"), True),
        (BUG, False),
        (KeyError("x"), False),
    ],
)
def test_a_message_goes_back_if_the_store_refused_and_is_acknowledged_after_a_bug(
    caplog: pytest.LogCaptureFixture, error: Exception, *, of_store: bool
) -> None:
    request = request_of()
    settle(request, error)
    settled = [each for each in request.mock_calls if each[0] in {"reject", "acknowledge"}]
    assert settled == [call.reject(requeue=True) if of_store else call.acknowledge()]
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert line.getMessage() == (
        f"cannot report the end of {JOB} ({type(error).__name__}: {error}), so its message goes "
        "back to the queue"
        if of_store
        else f"cannot report the end of {JOB}, so its message is acknowledged without a report"
    )
    assert (line.exc_info is None) is of_store  # an error in our code is logged with its traceback


@pytest.mark.parametrize("error", [BUG, OSError("reset")])
def test_a_message_that_cannot_be_settled_comes_again(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    settle(request_of(reject=redis.ConnectionError("gone"), acknowledge=KeyError("tag")), error)
    why = "'tag'" if error is BUG else "gone"
    assert caplog.messages[1:] == [
        f"cannot settle the message of {JOB} ({why}); the broker delivers it again"
    ]


def test_only_a_failing_report_of_a_request_is_settled(caplog: pytest.LogCaptureFixture) -> None:
    request = Request.__new__(Request)
    settled: list[str] = []
    request.humaninfo = lambda: JOB
    request.acknowledge = lambda: settled.append("acknowledged")

    def fail(self: Any, value: str) -> None:
        assert (self, value) == (request, "ä")
        raise BUG

    report(fail.__get__(request), "ä")
    assert settled == ["acknowledged"]
    assert JOB in caplog.text
    for other in (fail.__get__(SimpleNamespace()), lambda _: 1 / 0):
        with pytest.raises((AssertionError, ZeroDivisionError)):
            report(other, "ä")
    assert settled == ["acknowledged"]


def test_each_report_reaches_its_function_and_any_may_be_missing() -> None:
    calls = Mock()
    whole = Callbacks(
        accepted=calls.accepted,
        timed_out=calls.timed_out,
        succeeded=calls.succeeded,
        failed=calls.failed,
    )
    empty = Callbacks(accepted=None, timed_out=None, succeeded=None, failed=None)
    for each in (whole, empty):
        answers = [
            each.on_accepted(7, 1.5),
            each.on_timeout(True, 30),
            each.on_success("answer"),
            each.on_failure("info"),
        ]
        accepted = calls.accepted.return_value if each is whole else None
        assert answers == [accepted, None, None, None]
    assert calls.mock_calls == [
        call.accepted(7, 1.5),
        call.timed_out(True, 30),
        call.succeeded("answer"),
        call.failed("info"),
    ]
    assert empty.request is None
    request = Request.__new__(Request)
    of_request = Callbacks(
        accepted=request.on_accepted, timed_out=None, succeeded=None, failed=None
    )
    assert of_request.request is request


def test_each_report_of_an_end_that_fails_settles_the_message() -> None:
    settled: list[str] = []
    request = Request.__new__(Request)
    request.humaninfo = lambda: JOB
    request.acknowledge = lambda: settled.append("acknowledged")

    def fail(_: Any, *__: Any) -> None:
        raise BUG

    failing = fail.__get__(request)
    all_fail = Callbacks(accepted=failing, timed_out=failing, succeeded=failing, failed=failing)
    all_fail.on_timeout(False, 30)
    all_fail.on_success("answer")
    all_fail.on_failure("info")
    assert settled == ["acknowledged"] * 3
    with pytest.raises(ValueError, match="a bug"):  # nothing has ended yet
        all_fail.on_accepted(7, 1.5)
