"""A streamed answer without a provider."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx

from worker.providers import connections
from worker.providers.connections import CallProgress


class Streamed(httpx.AsyncByteStream):
    """Yields its pieces, then fails if the test scripts it."""

    def __init__(self, *pieces: bytes, error: BaseException | None = None) -> None:
        self._pieces, self._error, self.closed = pieces, error, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed += 1


MEGABYTE = bytes(1024 * 1024)


class Pieces(httpx.AsyncByteStream):
    """An answer of the given number of megabytes, and the given bytes."""

    def __init__(self, megabytes: int, more: bytes = b"") -> None:
        self._pieces = [MEGABYTE] * megabytes + [more] * bool(more)
        self.closed = 0
        content = SimpleNamespace(readany=self._readany)
        self._aiohttp_response = SimpleNamespace(content=content, read=self._read, close=self._end)
        self.released: list[str] = []

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        self._end()

    async def _readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def _read(self) -> None:
        self.released.append("free")

    def _end(self) -> None:
        self.closed += 1
        self.released.append("closed")


def body(stream: Any) -> Any:
    progress = CallProgress(None)
    progress.connected = True
    return connections._Body(stream, progress)
