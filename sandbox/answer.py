"""The answer of a simulated provider: a service decides it at once, the server delivers it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

HTML = "text/html; charset=utf-8"
JSON = "application/json"
SSE = "text/event-stream"

BLOCK_PAGE = (
    b"<!DOCTYPE html><html><head><title>Attention Required!</title></head>"
    b"<body><h1>Sorry, you have been blocked</h1></body></html>"
)


def error_page(status: int) -> bytes:
    """Return the HTML page of an edge server that got no answer from the provider."""
    head, body = f"<title>{status}</title>", f"<center><h1>{status}</h1></center>"
    return f"<html><head>{head}</head><body>{body}</body></html>".encode()


class Ending(StrEnum):
    """How much of an answer reaches the client."""

    WHOLE = "whole"
    TRUNCATED = "truncated"
    """Half of the body, then the connection closes."""
    STALLED = "stalled"
    """Half of the body, then nothing for as long as the answer is held."""
    RESET = "reset"
    """Nothing: the connection is reset."""


@dataclass(slots=True)
class Answer:
    """One answer, ready to be written.

    Attributes:
        status: The HTTP status.
        body: The encoded body.
        headers: Further headers, names in lower case.
        content_type: The media type.
        chunks: For a stream: the pieces, written one by one instead of `body`.
        pause_s: For a stream: the time between two pieces, in seconds.
        delay_s: How long the work takes, in seconds.
        hold_s: How long the answer to finished work is held back, in seconds.
        ending: How much of the answer the client gets.
        finish: Called once when the work is over.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON
    chunks: tuple[bytes, ...] = ()
    pause_s: float = 0.0
    delay_s: float = 0.0
    hold_s: float = 0.0
    ending: Ending = Ending.WHOLE
    finish: Callable[[], None] | None = None


def encode(value: Any) -> bytes:
    """Encode a value as compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
