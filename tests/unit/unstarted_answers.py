"""A provider's answer that comes in pieces, from no provider."""

from collections.abc import AsyncIterator

import httpx


class Streamed(httpx.AsyncByteStream):
    """Gives its pieces, and then fails where it is to."""

    def __init__(self, *pieces: bytes, error: BaseException | None = None) -> None:
        self._pieces, self._error, self.closed = pieces, error, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed += 1
