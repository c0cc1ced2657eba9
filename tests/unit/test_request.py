"""What Celery's request shows of a job, and what is told of a job that ends outside of its task."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import call

import pytest
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import states
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from celery.signals import task_revoked
from celery.worker import state

from tests.unit.unstarted_requests import ADMIN, AI, EMAIL, PROMPT, Requests
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown
from worker.hooks import request as request_module
from worker.hooks.request import HIDDEN
from worker.jobs.history import History
from worker.logs import redactor

SECRET = "canary-2211 of a key"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)


@pytest.mark.parametrize("shows", [True, False])
def test_a_jobs_content_shows_only_where_its_task_says_so(
    requests: Requests, *, shows: bool
) -> None:
    request = requests.of(show_content=shows)
    repr_of = PROMPT if shows else HIDDEN
    assert (request.argsrepr, request.kwargsrepr) == (repr_of, repr_of)
    for headers in (request.request_dict, request.message.headers):
        assert (headers["argsrepr"], headers["kwargsrepr"]) == (repr_of, repr_of)
    for safe in (True, False):
        info = request.info(safe=safe)
        assert info["name"] == AI
        if shows:
            assert PROMPT in str((info["args"], info["kwargs"]))
        else:
            assert (info["args"], info["kwargs"]) == (HIDDEN, HIDDEN)
    # The tracer finds the body as it is, and does not decode it once more.
    assert request.body == [[PROMPT], {"prompt": PROMPT}, {}]
    assert (request.content_type, request.kwargs) == (None, {"prompt": PROMPT})


@pytest.mark.parametrize(
    ("eta", "is_taken"),
    [
        ("2030-01-01T00:00:00+00:00", True),
        ("0001-01-01T00:00:00+12:00", False),  # Celery would drop it later, without a word
        (None, True),
    ],
)
def test_an_instant_out_of_any_calendar_is_refused(
    requests: Requests, eta: str | None, *, is_taken: bool
) -> None:
    if is_taken:
        assert (requests.of(headers={"eta": eta}).eta is None) is (eta is None)
        return
    with pytest.raises(InvalidTaskError, match=r"^its instant is out of any calendar$"):
        requests.of(headers={"eta": eta})


@pytest.mark.parametrize("wraps", [ExceptionWithTraceback, lambda exc, _: exc])
@pytest.mark.parametrize("waits", ["tpm", None])
def test_the_event_of_a_retry_says_how_long_it_waits_and_for_what(
    requests: Requests, waits: str | None, wraps: Callable[..., Any]
) -> None:
    retry = Retry("later", when=7)
    if waits:
        retry.waits = waits  # type: ignore[attr-defined, unused-ignore]
    request = requests.of()
    info = SimpleNamespace(exception=wraps(retry, "trace"))
    request.on_retry(info)
    request.send_event("task-retried", exception="x")
    assert requests.ends("stock_on_retry", "stock_send_event") == [
        call.stock_on_retry(info),
        call.stock_send_event("task-retried", exception="x", name=AI, countdown_s=7, waits=waits),
    ]


def test_other_events_have_celerys_fields_without_secrets(requests: Requests) -> None:
    redactor.learn([SECRET])
    request = requests.of()
    request.send_event("task-retried")
    request.send_event("task-failed", exception=ValueError(SECRET), runtime=1)
    request.send_event("task-failed", traceback=f"at {SECRET}", exception="x")
    request.send_event("task-succeeded", result=7, exception=SECRET)
    assert requests.ends("stock_send_event") == [
        call.stock_send_event("task-retried", name=AI, countdown_s=None, waits=None),
        call.stock_send_event("task-failed", exception="***", runtime=1),
        call.stock_send_event("task-failed", traceback="at ***", exception="x"),
        call.stock_send_event("task-succeeded", result=7, exception=SECRET),
    ]


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_job_expires_and_a_replay_of_it_may_still_run(requests: Requests, zone: Any) -> None:
    request = requests.of()
    assert request.maybe_expire() is False
    for minutes, is_over in ((-1, True), (1, False)):
        request.expires = datetime.now(zone) + timedelta(minutes=minutes)
        assert request.maybe_expire() is is_over
    assert "job-1" not in state.revoked


NOT_BEGUN = "it had not begun when the time that its producer gave it was over"
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
    its = f"it was not done{NOT_BEGUN.removeprefix('it had not begun')}"
    kind: type[JobError] = OutcomeUnknown if in_doubt else DeadlineExceeded
    words = f"{DOUBT}, and then {its}" if in_doubt else its
    context = request._context
    error = requests.told.record_request.call_args.args[2]
    assert (type(error), str(error)) == (kind, words)
    stored = call.backend.store_result("job-1", error, states.REVOKED, request=context)
    told = {"error": {"type": kind.__name__, "message": words}}
    closed = call.close_stream(context, error=kind.__name__, reason=words)
    names = ("end_run", "backend.store_result", "announce", "close_stream", "record_request")
    assert requests.ends(*names, "revoked_end", "stock__announce_revoked") == [
        call.end_run("job-1"),
        *([stored] * (not ignores)),
        call.announce(requests.app, context, name, states.REVOKED, told),
        *([closed] * (name == AI)),
        call.record_request(context, name, error),
        call.stock__announce_revoked("expired", False, None, True),
    ]
    assert request.store_errors is False  # Celery's own error would take its place


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
    requests.told.record_request.assert_not_called()
    requests.told.stock__announce_revoked.assert_not_called()


# Whether a person has ended it while it ran, and whether it is ended with others of its turn.
@pytest.mark.parametrize(
    ("terminated", "together", "as_celery"),
    [(True, True, True), (False, True, False), (False, False, True)],
)
def test_a_revoked_job_ends_with_the_others_or_as_celery_ends_it(
    requests: Requests, *, terminated: bool, together: bool, as_celery: bool
) -> None:
    requests.told.revoked_end.return_value = together
    request = requests.of()
    request._announce_revoked("terminated", terminated, 15, False)
    words = "the job was terminated"
    told = {"error": {"type": "TaskRevokedError", "message": words}}
    stock = call.stock__announce_revoked("terminated", terminated, 15, False)
    assert requests.ends(
        "end_run", "close_stream", "announce", "revoked_end", "stock__announce_revoked"
    ) == [
        call.end_run("job-1"),
        call.close_stream(request._context, error="TaskRevokedError", reason=words),
        call.announce(requests.app, request._context, AI, states.REVOKED, told),
        *([call.revoked_end(request, "terminated")] * (not terminated)),
        *([stock] * as_celery),
    ]
    requests.told.record_request.assert_not_called()


def test_a_revoked_job_whose_end_is_stored_is_acknowledged_and_signalled(
    requests: Requests,
) -> None:
    heard: list[Any] = []

    def hear(**fields: Any) -> None:
        heard.append((fields, requests.told.stock_acknowledge.call_count))

    request = requests.of()
    task_revoked.connect(hear)
    try:
        request.acknowledge_revoked()
    finally:
        task_revoked.disconnect(hear)
    [(fields, acknowledged)] = heard
    assert acknowledged == 1
    assert fields == {"signal": task_revoked, "sender": request.task} | {
        "request": request._context, "terminated": False, "signum": None, "expired": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("soft", "ends_coldly", "run_ends", "is_dead"),
    [
        (True, None, False, False),
        (True, 15, False, False),
        (False, None, True, True),
        (False, 15, True, False),  # the worker goes: the job comes again
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
    assert requests.told.stock_on_timeout.call_args == call(soft, 30)
    if is_dead:
        _, name, error = requests.told.record_request.call_args.args
        assert (name, type(error), error.args) == (AI, TimeLimitExceeded, (30,))


def lost(**task: Any) -> dict[str, Any]:
    return {"exc": WorkerLostError("9")} | task


BUG = ValueError("a bug")


# How the job failed, and whether that is a dead letter.
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
    assert ended is requests.told.stock_on_failure.return_value
    dead = call.record_request(request._context, AI, exc)
    assert requests.ends("record_request", "stock_on_failure") == [
        *([dead] * is_dead),
        call.stock_on_failure(info, False, return_ok),
    ]
    told = requests.told
    assert (told.announce.called, told.close_stream.called) == (is_dead, is_dead)


@pytest.mark.parametrize(
    ("name", "written", "comes_again"),
    [(AI, True, False), (AI, False, True), (ADMIN, False, False)],
)
def test_a_job_whose_dead_letter_cannot_be_written_comes_again(
    requests: Requests, name: str, *, written: bool, comes_again: bool
) -> None:
    requests.told.record_request.return_value = written
    request = requests.of(name)
    request._dead_letter(BUG)
    assert requests.told.announce.call_args.args[3:] == (
        states.FAILURE,
        {"error": {"type": "ValueError", "message": "ValueError"}},
    )
    assert requests.told.record_request.called is (name != ADMIN)
    request.acknowledge()
    assert requests.ends("stock_acknowledge", "stock_reject") == [
        call.stock_reject(requeue=True) if comes_again else call.stock_acknowledge()
    ]


@pytest.fixture
def announced(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> Requests:
    monkeypatch.setattr(request_module, "announces", lambda *_: True)
    monkeypatch.setattr(request_module, "is_announced", lambda _: False)
    return requests


@pytest.mark.parametrize(
    ("stored", "result"),
    [
        ({"status": states.SUCCESS, "result": "hello"}, "hello"),
        (ConnectionError("away, with a secret"), None),
    ],
)
def test_a_success_that_was_stored_before_is_announced_as_it_is_acknowledged(
    announced: Requests, caplog: pytest.LogCaptureFixture, stored: Any, result: Any
) -> None:
    request = announced.of(stored=stored)
    request._request_dict["delivery_info"]["redelivered"] = True
    request._success_was_stored = lambda: True
    with caplog.at_level("DEBUG", "worker"):
        request.acknowledge()
    assert announced.ends("announce", "stock_acknowledge") == [
        call.announce(announced.app, request._context, AI, states.SUCCESS, {"result": result}),
        call.stock_acknowledge(),
    ]
    assert request.task.backend.get_task_meta.call_args == call("job-1", cache=False)
    failed = result is None
    assert caplog.messages == ["cannot read the result of job-1 (ConnectionError)"] * failed


def test_an_expired_job_that_had_not_begun_says_so(requests: Requests) -> None:
    error = requests.of()._expiry_error()
    assert (type(error), str(error)) == (DeadlineExceeded, NOT_BEGUN)
