"""Answers of Groq in chunks, and a listener that notes their pieces."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

from tests.integration.providers.groq_request import MODEL

SSE = {"content-type": "text/event-stream; charset=utf-8"}
USAGE = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
DONE = b"data: [DONE]\n\n"


class NotingListener:
    """Notes what the client passes to the listener of a stream."""

    def __init__(self) -> None:
        self.begun = 0
        self.text = self.reasoning = ""
        self.calls: list[Mapping[str, Any]] = []
        self.first = asyncio.Event()

    def begin(self) -> None:
        self.begun += 1

    def piece(
        self, *, text: str = "", reasoning: str = "", tool_calls: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        self.text += text
        self.reasoning += reasoning
        self.calls += tool_calls
        self.first.set()


def chunk(
    delta: dict[str, Any] | None = None,
    reason: str | None = None,
    logprobs: Any = None,
    **more: Any,
) -> bytes:
    """One event in Groq's form."""
    choices = (
        []
        if delta is None
        else [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]
    )
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": MODEL,
        "choices": choices,
    }
    return b"data: " + json.dumps(body | more, ensure_ascii=False).encode() + b"\n\n"


ROLE = chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1"})
HELLO = ROLE + chunk({"content": "hel"}) + chunk({"content": "lo\u2028\U0001f511"})
LAST = chunk({}, "stop", x_groq={"id": "req_1", "usage": USAGE}, usage=USAGE)
VALUE = {
    "text": "hello\u2028\U0001f511",
    "reasoning": "",
    "model": MODEL,
    "usage": USAGE,
    "finish_reason": "stop",
    "tool_calls": [],
    "service_tier": None,
    "request_id": "req_1",
}
