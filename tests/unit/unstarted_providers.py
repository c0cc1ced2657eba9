"""A provider whose connections answer at once, and requests to it."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from worker.providers import SendRequest
from worker.providers.connections import on_sent
from worker.providers.unknowns import Unknown
from worker.verdicts import Reply

KEY = SecretStr("gsk_canary")
MESSAGE = {"role": "user", "content": "canary text"}
CHAT: dict[str, Any] = {"model": "m", "messages": [MESSAGE]}
CHOICE = {"message": {"content": "hi"}, "finish_reason": "stop"}
USAGE = {"total_tokens": 7}
MAIL = {"from": "a@s.example", "to": ["b@x.example", "c@x.example"], "subject": "canary text"}


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep Groq's SDK from starting a process, which on some systems finds the system's name."""
    monkeypatch.setattr("groq._base_client.get_platform", lambda: "Linux")


class ScriptedProvider:
    """A provider whose connections return one answer, or fail."""

    def __init__(self, kind: Any, outcome: Any, **options: Any) -> None:
        self.requests: list[httpx.Request] = []
        self.reports: list[str] = []
        self.noticed: list[Unknown] = []
        self.client: Any = kind("https://p.example", notice=self.noticed.append, **options)
        self._outcomes = outcome if isinstance(outcome, list) else [outcome]
        self.client._http = httpx.AsyncClient(
            base_url="https://p.example", transport=httpx.MockTransport(self._answer)
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if (tell := on_sent.get()) is not None:
            tell()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, httpx.Response):
            return outcome
        status, body = outcome
        return httpx.Response(status, json=body)

    async def call(self, request: Any, secret: SecretStr = KEY) -> Reply:
        reply = await self.client.call(secret, request, sent=lambda: self.reports.append("sent"))
        assert isinstance(reply, Reply)
        return reply


def summary(reply: Reply) -> str:
    verdict = reply.verdict
    return f"{verdict.fate} {verdict.code}{'' if verdict.definite else ' in doubt'}"


DONE = {"model": "m", "usage": USAGE, "choices": [CHOICE]}


def mail(**more: Any) -> SendRequest:
    return SendRequest.single(MAIL | more, "job-1")
