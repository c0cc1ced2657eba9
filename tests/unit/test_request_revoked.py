"""The end of a job that has expired, or that a person has revoked."""

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import call

import pytest
from celery import states
from celery.signals import task_revoked
from celery.worker import state

from tests.unit.unstarted_requests import AI, EMAIL, Requests, requests
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown
from worker.jobs.history import History

__all__ = ["requests"]


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_job_expires_and_a_replay_of_it_may_still_run(requests: Requests, zone: Any) -> None:
    request = requests.of()
    assert request.maybe_expire() is False
    for minutes, is_over in ((-1, True), (1, False)):
        request.expires = datetime.now(zone) + timedelta(minutes=minutes)
        assert request.maybe_expire() is is_over
    assert "job-1" not in state.revoked


NOT_BEGUN = "it had not begun when its producer's expiry time passed"
DOUBT = "an earlier attempt may have been accepted"


@pytest.mark.parametrize("ignores", [True, False])
@pytest.mark.parametrize("name", [AI, EMAIL])
def test_an_expired_job_ends_with_the_error_of_its_dead_letter(
    requests: Requests, name: str, *, ignores: bool
) -> None:
    in_doubt = name == EMAIL
    began = History(since_ms=1, in_doubt=in_doubt).headers()
    request = requests.of(name, headers=began | {"ignore_result": ignores})
    assert request.store_errors is not ignores
    request._announce_revoked("expired", False, None, True)
    not_done = f"it was not done{NOT_BEGUN.removeprefix('it had not begun')}"
    kind: type[JobError] = OutcomeUnknown if in_doubt else DeadlineExceeded
    sentence = f"{DOUBT}, and then {not_done}" if in_doubt else not_done
    context = request._context
    error = requests.calls.record_request.call_args.args[2]
    assert (type(error), str(error)) == (kind, sentence)
    stored = call.backend.store_result("job-1", error, states.REVOKED, request=context)
    end = {"error": {"type": kind.__name__, "message": sentence}}
    closed = call.close_stream(context, error=kind.__name__, reason=sentence)
    names = ("end_run", "backend.store_result", "announce", "close_stream", "record_request")
    assert requests.ends(*names, "revoked_end", "stock__announce_revoked") == [
        call.end_run("job-1"),
        *([stored] * (not ignores)),
        call.announce(requests.app, context, name, states.REVOKED, end),
        *([closed] * (name == AI)),
        call.record_request(context, name, error),
        call.stock__announce_revoked("expired", False, None, True),
    ]
    assert request.store_errors is False  # Celery's own error would replace its error


def test_an_expired_job_that_a_copy_has_done_keeps_its_result(
    requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    request = requests.of(stored={"status": states.SUCCESS, "result": 1})
    request._success_was_stored = lambda: {"status": states.SUCCESS}
    with caplog.at_level("INFO"):
        request._announce_revoked("expired", False, None, True)
    assert caplog.messages == ["job-1 has expired, but it had succeeded before; its result stays"]
    assert requests.ends("end_run", "task_ready", "stock_acknowledge", "announce") == [
        call.end_run("job-1"),
        call.task_ready(request),
        call.stock_acknowledge(),
    ]
    assert request._already_revoked is True
    requests.calls.record_request.assert_not_called()
    requests.calls.stock__announce_revoked.assert_not_called()


# Whether a person ended it while it ran, and whether it ends with others of the same turn.
@pytest.mark.parametrize(
    ("terminated", "together", "as_celery"),
    [(True, True, True), (False, True, False), (False, False, True)],
)
def test_a_revoked_job_ends_with_the_others_or_as_celery_ends_it(
    requests: Requests, *, terminated: bool, together: bool, as_celery: bool
) -> None:
    requests.calls.revoked_end.return_value = together
    request = requests.of()
    request._announce_revoked("terminated", terminated, 15, False)
    sentence = "the job was terminated"
    end = {"error": {"type": "TaskRevokedError", "message": sentence}}
    stock = call.stock__announce_revoked("terminated", terminated, 15, False)
    assert requests.ends(
        "end_run", "close_stream", "announce", "revoked_end", "stock__announce_revoked"
    ) == [
        call.end_run("job-1"),
        call.close_stream(request._context, error="TaskRevokedError", reason=sentence),
        call.announce(requests.app, request._context, AI, states.REVOKED, end),
        *([call.revoked_end(request, "terminated")] * (not terminated)),
        *([stock] * as_celery),
    ]
    requests.calls.record_request.assert_not_called()


def test_a_revoked_job_whose_end_is_stored_is_acknowledged_and_signalled(
    requests: Requests,
) -> None:
    signals: list[Any] = []

    def receive(**fields: Any) -> None:
        signals.append((fields, requests.calls.stock_acknowledge.call_count))

    request = requests.of()
    task_revoked.connect(receive)
    try:
        request.acknowledge_revoked()
    finally:
        task_revoked.disconnect(receive)
    [(fields, acknowledged)] = signals
    assert acknowledged == 1
    assert fields == {"signal": task_revoked, "sender": request.task} | {
        "request": request._context, "terminated": False, "signum": None, "expired": False,
    }  # fmt: skip


def test_an_expired_job_that_had_not_begun_says_so(requests: Requests) -> None:
    error = requests.of()._expiry_error()
    assert (type(error), str(error)) == (DeadlineExceeded, NOT_BEGUN)
