"""Parses HTTP answers for the verdict tables, and makes their messages safe to show."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from worker.providers.durations import retry_after_ms

MAX_SENTENCE = 300
"""How many characters of a provider's message are kept at most."""

MAX_COUNT = 10**12
"""The largest limit, use or quota that we believe. A larger number is a mistake and is ignored."""

_MAX_MESSAGE = 4_000
_MAX_BACKOFF_MS = 300_000
_KEY_LIKE = re.compile(r"\b(gsk|re)_[^\s\"'`,;()<>\]}]+")
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_PRIVATE_MIN_CHARS = 6
_ECHO_CHARS = 16
_MAX_SEARCHED = 1_000
_MAX_PRIVATE = 200_000  # the search must not block the event loop for long


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer.

    Attributes:
        status: The HTTP status.
        headers: The headers by lower-case name.
        body: The parsed JSON; None if the body is not JSON.
        is_page: Whether the body is HTML: a gateway in front of the provider has answered.
    """

    status: int
    headers: Mapping[str, str]
    body: Any = field(default=None, repr=False)
    is_page: bool = False

    @classmethod
    def parse(cls, status: int, headers: Mapping[str, str], content: bytes) -> "Answer":
        """Read an answer, whatever its content type."""
        try:
            body = parse_json(content)
        except (ValueError, RecursionError):  # ValueError covers bad JSON and bad UTF-8
            body = None
        is_page = body is None and content.lstrip()[:1] == b"<"
        return cls(status, {name.lower(): value for name, value in headers.items()}, body, is_page)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004 - the bounds of 2xx

    @property
    def error(self) -> Mapping[str, Any]:
        """The object that describes the error; empty if the body is not an object.

        Groq nests this object under `error`; at Resend it is the whole body.
        """
        if not isinstance(self.body, dict):
            return {}
        nested = self.body.get("error")
        if isinstance(nested, dict):
            return nested
        return self.body

    @property
    def code(self) -> str:
        """Groq's `code` or Resend's `name`; empty if the body has neither."""
        for name in ("code", "name"):
            value = self.error.get(name)
            if isinstance(value, str) and value:
                return value
        return ""

    @property
    def message(self) -> str:
        """The provider's message; empty if the body has none.

        The message may echo the user's text: see `safe_sentence`.
        """
        for value in (self.error.get("message"), self.error.get("error"), self.error.get("detail")):
            if isinstance(value, str):
                return value[:_MAX_MESSAGE]
        return ""

    def retry_after_ms(self, *, now_s: float) -> int | None:
        """Return the stated wait in milliseconds, None if the answer states no wait."""
        value = self.headers.get("retry-after")
        return None if value is None else retry_after_ms(value, now_s=now_s)

    def backoff_ms(self, *, now_s: float) -> int | None:
        """Return the wait that a failure states, at most five minutes, in milliseconds."""
        stated_ms = self.retry_after_ms(now_s=now_s)
        return None if stated_ms is None else min(stated_ms, _MAX_BACKOFF_MS)

    def header_int(self, name: str) -> int | None:
        """Return a header's value if it is a whole number from 0 on, else None."""
        value = self.headers.get(name, "").strip()
        if (
            not value.isascii() or not value.isdigit() or len(value) > len(str(MAX_COUNT))
        ):  # to read a very long number would take long
            return None
        return int(value) if int(value) <= MAX_COUNT else None


def parse_json(content: bytes) -> Any:
    """Parse JSON.

    NaN and Infinity are not valid JSON. They become null, because other programs could not read a
    result that contains them.

    Raises:
        ValueError: The content is not JSON.
        RecursionError: The content is nested too deeply.
    """
    return json.loads(content, parse_constant=lambda _: None)


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value in an answer is a plausible count: whole, not negative, not too large."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def safe_sentence(message: str, *, secret: str, private: Iterable[str] = ()) -> str:
    """Make a provider's message fit for logs and results.

    The result is one line of bounded length without keys or the user's texts.

    Args:
        message: The provider's message.
        secret: The key that was used.
        private: Texts of the request (prompts, mail bodies) that must not be echoed.
    """
    text = message.replace(secret, "***") if secret else message
    parts = [part for part in private if len(part) >= _PRIVATE_MIN_CHARS]
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "[…]")
    text = _without_echoes(
        text[:_MAX_SEARCHED], "\0".join(part[:_MAX_PRIVATE] for part in parts)[:_MAX_PRIVATE]
    )
    text = _BEARER.sub("Bearer ***", _KEY_LIKE.sub(r"\1_***", text))
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= MAX_SENTENCE else text[: MAX_SENTENCE - 1] + "…"


def _without_echoes(text: str, private: str) -> str:
    """Hide every run of at least `_ECHO_CHARS` characters that a private text also contains.

    Providers may quote only a part of a text.
    """
    kept, at = [], 0
    while at < len(text):
        length = _ECHO_CHARS
        if at + length > len(text) or text[at : at + length] not in private:
            kept.append(text[at])
            at += 1
            continue
        while at + length < len(text) and text[at : at + length + 1] in private:
            length += 1
        kept.append("[…]")
        at += length
    return "".join(kept)


def texts_in(value: object) -> Iterable[str]:
    """Yield every string leaf of a JSON-like value (not the names of its fields)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts_in(part)
