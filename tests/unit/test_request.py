"""What Celery's request shows of a job: in events, at its end, and to the tracer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import call

import pytest
from billiard.einfo import ExceptionWithTraceback
from celery import states
from celery.exceptions import InvalidTaskError, Retry

from tests.unit.unstarted_requests import AI, PROMPT, Requests, requests
from worker.hooks import request as request_module
from worker.hooks.request import HIDDEN
from worker.logs import redactor

__all__ = ["requests"]


SECRET = "canary-2211 of a key"


@pytest.mark.parametrize("shows", [True, False])
def test_a_jobs_content_shows_only_if_its_task_says_so(requests: Requests, *, shows: bool) -> None:
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
    # The tracer gets the decoded body, and does not decode it again.
    assert request.body == [[PROMPT], {"prompt": PROMPT}, {}]
    assert (request.content_type, request.kwargs) == (None, {"prompt": PROMPT})


@pytest.mark.parametrize(
    ("eta", "is_taken"),
    [
        ("2030-01-01T00:00:00+00:00", True),
        ("0001-01-01T00:00:00+12:00", False),  # Celery would drop it later without a log line
        (None, True),
    ],
)
def test_an_instant_out_of_any_calendar_is_refused(
    requests: Requests, eta: str | None, *, is_taken: bool
) -> None:
    if is_taken:
        assert (requests.of(headers={"eta": eta}).eta is None) is (eta is None)
        return
    with pytest.raises(InvalidTaskError, match=r"^its eta is outside the range of dates$"):
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
