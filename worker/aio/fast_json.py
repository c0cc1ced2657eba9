"""Reads and writes the same JSON as kombu, in a third of the time.

For each text, kombu creates a decoder. Its hook checks every object for kombu's own marks of dates
and other types, `{"__type__": …}`. Texts without such a mark need no hook, and one encoder is
enough for all texts.
"""

import json
from typing import Any

from kombu import serialization
from kombu.utils import json as _stock

_encode = _stock.JSONEncoder().encode
_MARK = '"__type__"'
_ESCAPED = "\\u00"
"""The beginning of an escaped letter; escaped letters may spell kombu's mark."""


_decode = json.JSONDecoder().decode


def loads_plain(text: str) -> Any:
    """Decode a text without kombu's marks.

    Raises:
        ValueError: The text may contain such a mark, or is not JSON.
    """
    if _MARK in text or _ESCAPED in text:
        raise ValueError("kombu may have marked this text")
    return _decode(text)


def loads(text: Any) -> Any:
    """Decode as kombu's `loads` does."""
    if isinstance(text, bytes):
        text = text.decode()
    if isinstance(text, str) and _MARK not in text and _ESCAPED not in text:
        return _decode(text)
    return _stock.loads(text)  # type: ignore[no-untyped-call, unused-ignore]


def dumps(value: Any) -> str:
    """Encode as kombu's `dumps` does."""
    text: str = _encode(value)
    return text


def install() -> None:
    """Make kombu use `dumps` and `loads` for JSON messages in this process."""
    serialization.register(
        "json", dumps, loads, content_type="application/json", content_encoding="utf-8"
    )  # type: ignore[no-untyped-call, unused-ignore]
