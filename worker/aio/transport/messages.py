"""Decodes messages in batches, and shares the values that they have in common.

With thousands of messages in flight, copies take much memory: copies of header names, of an id that
a message has three times, of a body that is kept both as text and as bytes.
"""

from sys import intern
from typing import Any, Final

from kombu import serialization
from kombu.exceptions import DecodeError
from kombu.transport import virtual as _virtual

from worker.aio import fast_json

StockMessage: Any = _virtual.Message  # kombu's classes are only half typed

_REPEATED: Final = ("lang", "task", "origin")
"""Headers with few distinct values."""
_USUAL: Final = {"argsrepr": "()", "kwargsrepr": "{}", "timelimit": [None, None]}
"""Values of headers that most messages have."""
_NOTHING_FOLLOWS: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""The third part of most bodies. It must not be changed, because the messages share it."""
_TOGETHER: Final = 16
"""How many texts are decoded together, so that their repeated names are one object.

More texts at a time would need large buffers.
"""
_FEW: Final = 8
"""If fewer texts are decoded together, their names are shared with those of earlier texts."""
_SHAPES: Final = 256
_JSON: Final = "application/json"

UNREADABLE: Final = object()
NOTHING_DELAYED: Final = -1

Taken = list[tuple[str, str, bytes]]
"""For each message the list that it was in, its tag and its text."""


class Message(StockMessage):
    """kombu's message, without a copy of the text that it was decoded from."""

    errors: Any = ()

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        headers, properties, body = (
            payload.get("headers"),
            payload["properties"],
            payload.get("body"),
        )
        if (
            options
            or not isinstance(headers, dict)
            or headers.get("compression")
            or not isinstance(body, str)
        ):
            self.errors = []
            super().__init__(payload, channel=channel, **options)
            self._kept = payload
            return
        self.channel = channel
        self.delivery_tag = properties["delivery_tag"]
        self.content_type, self.content_encoding = (
            payload.get("content-type"),
            payload.get("content-encoding"),
        )
        self.headers, self.properties = headers, properties
        self.delivery_info = properties.get("delivery_info") or {}
        self._decoded_cache, self._state, self.accept = None, "RECEIVED", None
        plain = channel.decode_body(body, properties.get("body_encoding"))
        # An unencoded body may have half of a surrogate pair, which a producer can send, too.
        self.body = plain.encode(errors="surrogatepass") if isinstance(plain, str) else plain

    @property
    def _raw(self) -> dict[str, Any]:
        """The payload that the message was decoded from."""
        kept: dict[str, Any] | None = getattr(self, "_kept", None)
        if kept is not None:
            return kept
        encoding = self.properties.get("body_encoding")
        body = self.channel.encode_body(self.body, encoding)[0]
        return {
            "body": body.decode(errors="surrogatepass") if isinstance(body, bytes) else body,
            "content-encoding": self.content_encoding,
            "content-type": self.content_type,
            "headers": self.headers,
            "properties": self.properties,
        }

    @_raw.setter
    def _raw(self, _: dict[str, Any]) -> None:
        pass  # kombu's own `__init__` sets it

    def _decode(self) -> Any:
        # In one step, this does the same as kombu, unless the project has set its own decoder.
        plain = (
            self.content_type == _JSON
            and self.content_encoding == "utf-8"
            and _JSON in (self.accept or ())
        )
        if not plain or serialization.registry._decoders.get(_JSON) is not fast_json.loads:  # noqa: SLF001 - no other way
            return super()._decode()
        try:
            payload = fast_json.loads(self.body)
        except Exception as exc:
            raise DecodeError(exc) from exc
        if type(payload) is list and payload[2:] == [_NOTHING_FOLLOWS]:
            payload[2] = _NOTHING_FOLLOWS
        return payload


def read_batch(answer: list[Any], lists: list[str]) -> tuple[int, Taken, int]:
    """Read the reply of the script that takes messages.

    Args:
        answer: The reply.
        lists: The lists that the script was asked to read.

    Returns:
        The number of entries that the script set aside, the messages, and the time in microseconds
        after which this channel has to look for a delayed message. That time is `NOTHING_DELAYED`
        if no message is delayed, and less if this channel need not look.
    """
    set_aside, sizes, tags, texts, due_in_us = answer
    numbers, taken, at = [int(part) for part in sizes.split()], [], 0
    for number, length, text in zip(numbers[::2], numbers[1::2], texts, strict=True):
        taken.append((lists[number], tags[at : at + length].decode(), text))
        at += length
    return set_aside, taken, due_in_us


def decode(texts: list[bytes]) -> list[Any]:
    """Decode texts. A text that cannot be decoded becomes `UNREADABLE`."""
    return [
        message
        for first in range(0, len(texts), _TOGETHER)
        for message in _decode(texts[first : first + _TOGETHER])
    ]


def _decode(texts: list[bytes]) -> list[Any]:
    try:
        messages: list[Any] = fast_json.loads_plain((b"[%b]" % b",".join(texts)).decode())
        if len(messages) == len(texts):
            if len(texts) < _FEW:
                for message in messages:
                    _share_names(message)
            return messages
    except (ValueError, TypeError, RecursionError, OverflowError):
        pass
    return [_decode_one(text) for text in texts]


def _decode_one(text: bytes) -> Any:
    try:
        return fast_json.loads(text)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return UNREADABLE


_shapes: dict[tuple[str, ...], tuple[str, ...]] = {}
"""The names of the headers or properties of earlier messages."""


def _share_names(message: Any) -> None:
    """Let a message share the name objects of its headers and properties with earlier messages."""
    for part in ("headers", "properties"):
        values = message.get(part) if type(message) is dict else None
        if type(values) is not dict:
            continue
        names = tuple(values)
        if (known := _shapes.get(names)) is not None:
            message[part] = dict(zip(known, values.values(), strict=True))
        elif len(_shapes) < _SHAPES:
            _shapes[names] = names


def share_values(message: dict[str, Any]) -> None:
    """Share values that a message has several times, and values that most messages have."""
    headers, properties = message.get("headers"), message["properties"]
    _share(message, ("content-type", "content-encoding"))
    _share(properties, ("reply_to", "body_encoding"))
    if isinstance(route := properties.get("delivery_info"), dict):
        _share(route, ("exchange", "routing_key"))
    if not isinstance(headers, dict):
        return
    _share(headers, _REPEATED)
    for name, usual in _USUAL.items():
        if headers.get(name) == usual:
            headers[name] = usual
    job = headers.get("id")
    if job is None:
        return  # it is not a message of Celery
    if headers.get("root_id") == job:
        headers["root_id"] = job
    if properties.get("correlation_id") == job:
        properties["correlation_id"] = job


def _share(part: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        value = part.get(name)
        if type(value) is str:
            part[name] = intern(value)
