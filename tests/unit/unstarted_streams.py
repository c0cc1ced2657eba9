"""The stream of an answer, without a writer of its records."""

from typing import Any

from worker.streams.answer import AnswerStream

NAME = "ns:stream:job"


def stream_of(
    *, attempts: int = 0, notify: Any = lambda *_: None, claims: bool = True
) -> AnswerStream:
    stream = AnswerStream(NAME, attempts=attempts, notify=notify)
    if claims:
        stream.claim(7, "", None)
    return stream


def fields(**of: Any) -> dict[str, bytes]:
    return {name: str(value).encode() for name, value in of.items()}
