"""kombu's JSON, without what it does again for every message.

kombu gives each text a decoder of its own with a hook that looks at every object, for the sake of
dates and the like, which it writes as `{"__type__": …}`. Texts without such a mark need no hook,
and one encoder serves all: the same JSON in both directions, in a third of the time.
"""

import json
from typing import Any

from kombu import serialization
from kombu.utils import json as _stock

_encode = _stock.JSONEncoder().encode
_MARK = '"__type__"'
_ESCAPED = "\\u00"
"""What kombu's mark may hide behind: letters written as escapes."""


_decode = json.JSONDecoder().decode


def loads_plain(text: str) -> Any:
    """Decode a text without kombu's marks.

    Raises:
        ValueError: It may have such a mark, or it is no JSON.
    """
    if _MARK in text or _ESCAPED in text:
        raise ValueError("kombu may have marked this text")
    return _decode(text)


def loads(text: Any) -> Any:
    """Decode what kombu's `loads` would decode, to the same."""
    if isinstance(text, bytes):
        text = text.decode()
    if isinstance(text, str) and _MARK not in text and _ESCAPED not in text:
        return _decode(text)
    return _stock.loads(text)  # type: ignore[no-untyped-call, unused-ignore]


def dumps(value: Any) -> str:
    """Encode as kombu's `dumps` would."""
    text: str = _encode(value)
    return text


def install() -> None:
    """Let this process's kombu use both for its JSON messages."""
    serialization.register(
        "json", dumps, loads, content_type="application/json", content_encoding="utf-8"
    )  # type: ignore[no-untyped-call, unused-ignore]
