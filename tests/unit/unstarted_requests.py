"""Requests for jobs without a worker, and the calls that their ends cause."""

import json
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery, states
from celery.worker import state
from celery.worker.request import Request
from kombu.message import Message

from worker.hooks import request as request_module
from worker.hooks import revoked
from worker.hooks.request import PrivateRequest
from worker.hooks.task import ServiceTask

PROMPT = "canary-2210 of a prompt"
AI, EMAIL, ADMIN = "tasks.ai.complete", "tasks.email.send", "tasks.admin.reset"
SERVICE_OF = {AI: "groq", EMAIL: "resend", ADMIN: ""}


def _nothing() -> None:
    pass


class Requests:
    """Makes requests for jobs, and notes the calls that their ends cause."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = calls = Mock()
        calls.record_request.return_value = True
        calls.revoked_end.return_value = False
        self.app = Celery(set_as_current=False)
        monkeypatch.setattr(request_module, "recorder", calls)
        monkeypatch.setattr(revoked.of_process, "end", calls.revoked_end)
        monkeypatch.setattr(request_module, "end_run", calls.end_run)
        monkeypatch.setattr(request_module, "close_stream", calls.close_stream)
        monkeypatch.setattr(request_module, "announce_from_consumer", calls.announce)
        monkeypatch.setattr(state, "task_ready", calls.task_ready)
        for name in (
            "on_timeout",
            "on_failure",
            "on_retry",
            "acknowledge",
            "reject",
            "send_event",
            "_announce_revoked",
        ):
            monkeypatch.setattr(Request, name, getattr(calls, f"stock_{name}"))

    def of(self, name: str = AI, *, stored: Any = None, headers: Any = None, **task: Any) -> Any:
        """Make a request.

        Args:
            name: The job's task.
            stored: The result of the job in the result store; an error means that the store is
                down.
            headers: Further headers of the message.
            task: Attributes of the task.
        """
        service = SERVICE_OF[name]
        made: Any = self.app.task(
            _nothing, name=name, base=ServiceTask, service=service, streams=name == AI,
            shared=False, **task,
        )  # fmt: skip
        store: dict[str, Any] = {"side_effect": stored} if isinstance(stored, Exception) else {}
        store = store or {"return_value": stored or {"status": states.PENDING}}
        made.backend = self.calls.backend
        made.backend.get_task_meta = Mock(**store)
        standard = {"id": "job-1", "task": name, "argsrepr": PROMPT, "kwargsrepr": PROMPT}
        message = Message(  # type: ignore[no-untyped-call, unused-ignore]
            body=json.dumps(([PROMPT], {"prompt": PROMPT}, {})), channel=None, delivery_tag="t1",
            headers=standard | (headers or {}), content_type="application/json",
            content_encoding="utf-8", accept={"application/json"}, delivery_info={}, properties={},
        )  # fmt: skip
        return PrivateRequest(message, app=self.app, task=made, decoded=False)

    def ends(self, *names: str) -> list[Any]:
        """Return the calls with these names, in order."""
        return [each for each in self.calls.mock_calls if each[0] in names]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(monkeypatch)
