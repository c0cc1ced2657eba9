"""A provider's client whose connections return one answer, or fail."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from worker.providers import Groq, Resend

SECRET = SecretStr("gsk_canary")
Requests = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Requests]]:
    """Makes a provider whose connections return one answer or fail, and a list of its requests."""

    def make(service: str, outcome: Any) -> tuple[Any, Requests]:
        at = f"https://{service}.example"
        made: Any = Groq(at) if service == "groq" else Resend(at)
        requests: Requests = []

        def answering(method: str) -> Any:
            async def answer(path: str, **options: Any) -> httpx.Response:
                requests.append((method, path, options))
                if isinstance(outcome, Exception):
                    raise outcome
                status, body = outcome
                return httpx.Response(status, json=body)

            return answer

        for method in ("get", "post"):
            monkeypatch.setattr(made._http, method, answering(method))
        return made, requests

    return make
