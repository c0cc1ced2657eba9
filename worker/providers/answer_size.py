"""How much of an answer is read: a fault before the provider may send one that never ends.

Hundreds of calls are in flight in one process. If all of their answers went on for as long as a
call may take, the process would run out of memory, and all its jobs with it.
"""

from collections.abc import Iterator
from typing import Any, Final

import httpx

from worker.providers.failures import OversizedAnswer

LARGEST_WHOLE: Final = 16 * 1024 * 1024
"""The most bytes of an answer that is kept until it is complete.

A completion of 131,072 tokens, the longest of Groq's, is less than a megabyte.
"""
LARGEST_IN_PIECES: Final = 64 * 1024 * 1024
"""The most bytes of an answer that is read as it comes, whose tokens are an event of 250 bytes
each."""
_PIECE_BYTES: Final = 16 * 1024  # of compressed bytes, of which one may become a thousand


class SizeCount:
    """Counts the bytes of one answer.

    Args:
        most: The most that it may have.
    """

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, piece: bytes) -> bytes:
        """Count a piece, and give it back.

        Raises:
            OversizedAnswer: It is too much.
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
    """Let an answer decompress to a bounded size; a kilobyte may stand for a megabyte."""
    if "content-encoding" in response.headers:
        bounded: Any = _BoundedDecoder(response._get_content_decoder())  # noqa: SLF001 - httpx has no bound
        response._decoder = bounded  # noqa: SLF001


class Slices(httpx.SyncByteStream):
    """A compressed body, from which no more is decompressed at once than can be counted."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _PIECE_BYTES):
            yield self._body[start : start + _PIECE_BYTES]
