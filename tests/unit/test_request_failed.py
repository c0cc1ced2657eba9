"""Which jobs that fail outside of their task become dead letters."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import call

import pytest
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import states
from celery.exceptions import Ignore, Reject, Retry
from celery.worker import state

from tests.unit.unstarted_requests import ADMIN, AI, Requests, requests

__all__ = ["requests"]


@pytest.mark.parametrize(
    ("soft", "ends_coldly", "run_ends", "is_dead"),
    [
        (True, None, False, False),
        (True, 15, False, False),
        (False, None, True, True),
        (False, 15, True, False),  # the worker ends: the job comes again
    ],
)
def test_a_job_that_meets_the_hard_time_limit_becomes_a_dead_letter(
    requests: Requests,
    monkeypatch: pytest.MonkeyPatch,
    *,
    soft: bool,
    ends_coldly: int | None,
    run_ends: bool,
    is_dead: bool,
) -> None:
    monkeypatch.setattr(state, "should_terminate", ends_coldly)
    requests.of().on_timeout(soft, 30)
    names = [each[0] for each in requests.ends("end_run", "record_request", "stock_on_timeout")]
    assert names == [*["end_run"] * run_ends, *["record_request"] * is_dead, "stock_on_timeout"]
    assert requests.calls.stock_on_timeout.call_args == call(soft, 30)
    if is_dead:
        _, name, error = requests.calls.record_request.call_args.args
        assert (name, type(error), error.args) == (AI, TimeLimitExceeded, (30,))


def lost(**task: Any) -> dict[str, Any]:
    return {"exc": WorkerLostError("9")} | task


BUG = ValueError("a bug")


# How the job failed, and whether it becomes a dead letter.
@pytest.mark.parametrize(
    ("how", "is_dead"),
    [
        ({"exc": BUG}, True),
        ({"exc": BUG, "wrapped": True}, True),
        ({"exc": BUG, "return_ok": True}, False),  # its task has recorded it
        ({"exc": BUG, "return_ok": True, "internal": True}, True),
        ({"exc": KeyboardInterrupt()}, False),
        ({"exc": Retry()}, False),
        ({"exc": Ignore()}, False),
        ({"exc": Terminated()}, False),
        ({"exc": MemoryError()}, False),
        ({"exc": Reject("no", requeue=True)}, False),
        ({"exc": Reject("no", requeue=False)}, True),
        (lost(), False),
        (lost(wrapped=True), False),
        (lost(retry_on_worker_lost=False, max_retries=0), False),
        (lost(retry_on_worker_lost=True, max_retries=2), False),
        (lost(retry_on_worker_lost=True, max_retries=1), True),
        (lost(retry_on_worker_lost=True, max_retries=0), True),
        (lost(retry_on_worker_lost=True, max_retries=None), False),
        (lost(retry_on_worker_lost=True, max_retries=0, succeeded=True), False),
    ],
)
def test_a_job_that_failed_outside_of_its_task_becomes_a_dead_letter(
    requests: Requests, how: dict[str, Any], *, is_dead: bool
) -> None:
    task = {name: how[name] for name in ("retry_on_worker_lost", "max_retries") if name in how}
    request = requests.of(headers={"retries": 1}, **task)
    request._success_was_stored = lambda: how.get("succeeded", False)
    exc = how["exc"]
    info = SimpleNamespace(
        exception=ExceptionWithTraceback(exc, "trace") if how.get("wrapped") else exc,
        internal=how.get("internal", False),
    )
    return_ok = how.get("return_ok", False)
    ended = request.on_failure(info, send_failed_event=False, return_ok=return_ok)
    assert ended is requests.calls.stock_on_failure.return_value
    dead = call.record_request(request._context, AI, exc)
    assert requests.ends("record_request", "stock_on_failure") == [
        *([dead] * is_dead),
        call.stock_on_failure(info, False, return_ok),
    ]
    calls = requests.calls
    assert (calls.announce.called, calls.close_stream.called) == (is_dead, is_dead)


@pytest.mark.parametrize(
    ("name", "written", "comes_again"),
    [(AI, True, False), (AI, False, True), (ADMIN, False, False)],
)
def test_a_job_whose_dead_letter_cannot_be_written_comes_again(
    requests: Requests, name: str, *, written: bool, comes_again: bool
) -> None:
    requests.calls.record_request.return_value = written
    request = requests.of(name)
    request._dead_letter(BUG)
    assert requests.calls.announce.call_args.args[3:] == (
        states.FAILURE,
        {"error": {"type": "ValueError", "message": "ValueError"}},
    )
    assert requests.calls.record_request.called is (name != ADMIN)
    request.acknowledge()
    assert requests.ends("stock_acknowledge", "stock_reject") == [
        call.stock_reject(requeue=True) if comes_again else call.stock_acknowledge()
    ]
