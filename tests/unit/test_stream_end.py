"""The end of a job outside of its task: its stream, its error, its notification."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from celery import Celery, states

from worker.aio.transport.headers import DEATHS
from worker.errors import DeadlineExceeded, OutcomeUnknown, Poisoned
from worker.hooks import request as request_module
from worker.hooks import stream_end
from worker.hooks import task as task_module
from worker.hooks.request import PrivateRequest
from worker.hooks.task import ServiceTask
from worker.jobs.history import HEADER, History

ASKED = {"stream": True}


def _nothing() -> None:
    pass


@pytest.mark.parametrize("streams", [True, False])
def test_only_a_task_that_streams_has_streams_to_close_whatever_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
    streams: bool,  # noqa: FBT001
) -> None:
    app, closed = Celery(set_as_current=False), list[str]()
    for module in (request_module, task_module):
        monkeypatch.setattr(
            module, "close_stream", lambda _, error, reason: closed.append(f"{error}: {reason}")
        )
    task = app.task(_nothing, name="tasks.ai.x", base=ServiceTask, streams=streams)
    task.push_request(id="job", kwargs=ASKED, is_eager=True)
    task.on_failure(Poisoned("5 workers died"), "job", (), ASKED, None)
    task.on_failure(ValueError("while it ran, so it has closed its stream"), "job", (), ASKED, None)
    request: Any = SimpleNamespace(task=task, _context=task.request)
    PrivateRequest._close_stream(request, "Revoked", "by a person")
    assert closed == (["Poisoned: 5 workers died", "Revoked: by a person"] if streams else [])


@pytest.mark.parametrize(
    ("kwargs", "closes"),
    [(ASKED, True), ({"stream": False}, False), ({"stream": 1}, False), ({}, False), (None, False)],
)
def test_only_a_job_that_asked_for_a_stream_has_one(
    monkeypatch: pytest.MonkeyPatch,
    kwargs: Any,
    closes: bool,  # noqa: FBT001
) -> None:
    streams = Mock()
    monkeypatch.setattr(stream_end, "lifespan", SimpleNamespace(submit=asyncio.run))
    monkeypatch.setattr(stream_end.Runtime, "current", lambda: SimpleNamespace(streams=streams))
    headers = History(since_ms=1, attempts=3).headers()
    context = SimpleNamespace(id="job", kwargs=kwargs, headers=headers)
    stream_end.close_stream(context, error="Poisoned", reason="5 workers died")
    closed = call.open().close_from_outside(
        creates=True, status="failed", error="Poisoned", reason="5 workers died"
    )
    assert streams.mock_calls == ([call.open("job", attempts=3), closed] if closes else [])


def test_a_stream_whose_pool_is_gone_is_left_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(work: Any) -> None:
        work.close()
        raise RuntimeError("the loop is closed")

    monkeypatch.setattr(stream_end, "lifespan", SimpleNamespace(submit=refuse))
    with caplog.at_level("DEBUG"):
        stream_end.close_stream(
            SimpleNamespace(id="job", kwargs=ASKED, headers={}), error="Poisoned", reason="no"
        )
    assert "cannot close the stream of job: the pool is gone" in caplog.text


@pytest.mark.parametrize("in_doubt", [True, False])
def test_the_reason_of_a_revoked_email_says_that_it_may_have_been_sent(
    monkeypatch: pytest.MonkeyPatch,
    in_doubt: bool,  # noqa: FBT001
) -> None:
    ends = Mock()
    monkeypatch.setattr(request_module.revoked_jobs, "end", ends.end)
    request: Any = SimpleNamespace(
        id="job",
        _is_in_doubt=lambda: in_doubt,
        _close_stream=ends.close_stream,
        _announce_end=ends.announce_end,
    )
    PrivateRequest._announce_revoked(request, "revoked", False, None, False)
    doubt = "; an earlier attempt may have been accepted" if in_doubt else ""
    reason = f"the job was revoked{doubt}"
    assert ends.mock_calls == [
        call.close_stream("TaskRevokedError", reason),
        call.announce_end(
            states.REVOKED, {"error": {"type": "TaskRevokedError", "message": reason}}
        ),
        call.end(request, f"revoked{doubt}"),
    ]


# Whether the job is an email, the headers of its message, and whether it may have been sent.
@pytest.mark.parametrize(
    ("sends_once", "delivery", "headers", "in_doubt"),
    [
        (True, {}, {}, False),
        # By a worker that lost its connection to the broker.
        (True, {"redelivered": True}, {}, True),
        (True, {}, {DEATHS: 1}, True),
        (True, {}, History(since_ms=1, in_doubt=True).headers(), True),
        (True, {}, History(since_ms=1).headers(), False),
        (False, {"redelivered": True}, {DEATHS: 1}, False),
    ],
)
def test_an_expired_email_that_may_have_been_sent_ends_in_doubt(
    delivery: dict[str, Any], headers: dict[str, Any], *, sends_once: bool, in_doubt: bool
) -> None:
    request: Any = PrivateRequest.__new__(PrivateRequest)
    request._context = SimpleNamespace(delivery_info=delivery, headers=headers)
    request._task = SimpleNamespace(sends_once=lambda: sends_once)
    error = request._expiry_error()
    assert type(error) is (OutcomeUnknown if in_doubt else DeadlineExceeded)
    begun = "it was not done" if HEADER in headers else "it had not begun"
    assert f"{begun} when its producer's expiry time passed" in str(error)


# Whether the message came before, is announced already, and has a success in the result store.
@pytest.mark.parametrize(
    ("redelivered", "announced", "stored", "is_announced"),
    [
        (True, False, True, True),
        (True, False, False, False),
        (True, True, True, False),
        (False, False, True, False),
    ],
)
def test_a_success_of_a_worker_that_died_is_announced_by_the_worker_that_finds_it(
    monkeypatch: pytest.MonkeyPatch,
    *,
    redelivered: bool,
    announced: bool,
    stored: bool,
    is_announced: bool,
) -> None:
    announcements: list[Any] = []
    monkeypatch.setattr(request_module, "announces", lambda *_: True)
    monkeypatch.setattr(request_module, "is_announced", lambda _: announced)
    request: Any = SimpleNamespace(
        name="tasks.ai.x",
        kwargs={},
        _context=SimpleNamespace(delivery_info={"redelivered": redelivered}, headers={}),
        _success_was_stored=lambda: stored,
        _stored_result=lambda: "hello",
        _announce_end=lambda *end: announcements.append(end),
    )
    PrivateRequest._announce_stored_success(request)
    assert announcements == [(states.SUCCESS, {"result": "hello"})] * is_announced
