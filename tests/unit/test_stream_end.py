"""Whose stream is closed where a job ends outside of its task."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from worker.errors import Poisoned
from worker.hooks import request as request_module
from worker.hooks import stream_end
from worker.hooks import task as task_module
from worker.hooks.request import PrivateRequest
from worker.hooks.task import ServiceTask

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
    submitted = []
    monkeypatch.setattr(
        stream_end, "lifespan", SimpleNamespace(submit=lambda work: submitted.append(work.close()))
    )
    context = SimpleNamespace(id="job", kwargs=kwargs, headers={})
    stream_end.close_stream(context, error="Poisoned", reason="5 workers died")
    assert bool(submitted) is closes
