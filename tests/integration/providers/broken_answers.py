"""Answers that break before they can be judged."""

from typing import Any


def broken_answers(body: bytes) -> list[tuple[Any, str]]:
    """Return the ways to break an answer with this body, each with the expected code."""
    return [
        # reset before an answer
        (lambda script: script.reset_before_answer(), "read_error"),
        # closed without an answer
        (lambda script: script.raw(b""), "protocol_error"),
        # reset, and closed, after half a body
        (lambda script: script.reset_after_half(body * 20), "protocol_error"),
        (lambda script: script.close_after_half(body * 20), "protocol_error"),
        # something that is not HTTP
        (lambda script: script.raw(b"220 mail.example ESMTP\r\n\r\n"), "protocol_error"),
        # a body that does not match its encoding
        (
            lambda script: script.answer(200, b"plain", {"content-encoding": "gzip"}),
            "undecodable_answer",
        ),
    ]
