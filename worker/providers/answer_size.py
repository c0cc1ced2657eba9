"""Limits how much of an answer is read, because a faulty gateway may send one that never ends.

Hundreds of calls are in flight in one process. If all their answers went on for as long as a call
may take, the process would run out of memory, which would end the runs of all its jobs.
"""

from collections.abc import Iterator
from typing import Any, Final

import httpx

from worker.providers.failures import OversizedAnswer

LARGEST_WHOLE: Final = 16 * 1024 * 1024
"""The largest size of an answer that is kept until it is complete, in bytes.

Groq's longest completion has 131,072 tokens, which is less than a megabyte.
"""
LARGEST_IN_PIECES: Final = 64 * 1024 * 1024
"""The largest size of an answer that is read while it arrives, in bytes.

Each token of such an answer is an event of 250 bytes.
"""
_PIECE_BYTES: Final = 16 * 1024  # compressed bytes, each of which may decompress to a thousand


class SizeCount:
    """Counts the bytes of one answer.

    Args:
        most: The largest size that the answer may have.
    """

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, piece: bytes) -> bytes:
        """Count a piece and return it.

        Raises:
            OversizedAnswer: The answer is too large.
        """
        self._left -= len(piece)
        if self._left < 0:
            raise OversizedAnswer("")
        return piece


class _BoundedDecoder:
    """Decompresses an answer to a bounded size."""

    def __init__(self, decoder: Any) -> None:
        self._decoder, self._count = decoder, SizeCount(LARGEST_IN_PIECES)

    def decode(self, data: bytes) -> bytes:
        return self._count.take(self._decoder.decode(data))

    def flush(self) -> bytes:
        return self._count.take(self._decoder.flush())


def bound_decoding(response: httpx.Response) -> None:
    """Limit the decompressed size of an answer: a kilobyte may decompress to a megabyte."""
    if "content-encoding" in response.headers:
        bounded: Any = _BoundedDecoder(response._get_content_decoder())  # noqa: SLF001 - httpx has no bound
        response._decoder = bounded  # noqa: SLF001


class Slices(httpx.SyncByteStream):
    """A compressed body that is decompressed in small pieces, so that its size can be checked."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _PIECE_BYTES):
            yield self._body[start : start + _PIECE_BYTES]
