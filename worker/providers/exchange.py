"""One HTTP request of somebody's own SDK, sent as it is with whichever key, and its answer."""

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from pydantic import SecretStr

_REPLACED = frozenset({b"authorization", b"host", b"content-length", b"transfer-encoding"})


class StreamEnd:
    """How the reading of a streamed answer ended.

    It does not know the stream, so that a stream which nobody reads any more can be freed.

    Attributes:
        ended: Its reader has done with it: read it, closed it, or dropped it.
        error: Why it broke off.
        complete: It was read to its end.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.error: Exception | None = None
        self.complete = False
        self._loop: Final = asyncio.get_running_loop()

    def end(self) -> None:
        """Note that the reader has done with the stream; may be called from any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.ended.set)


@dataclass(slots=True, eq=False)
class Exchange:
    """A request, and what came back.

    Attributes:
        request: The request as the SDK made it; its body is read.
        params: The JSON object in its body; empty where the body is something else.
        changes: Fields of that object that differ for the key that was chosen.
        response: The latest answer that came whole.
        error: Why the latest call brought no answer.
        opened: Gets the answer as soon as its headers are here, where it is streamed.
        end: How the reading of that answer ended.
    """

    request: httpx.Request
    params: dict[str, Any] = field(repr=False)
    changes: dict[str, Any] = field(default_factory=dict)
    response: httpx.Response | None = None
    error: Exception | None = None
    opened: "asyncio.Future[httpx.Response]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    end: StreamEnd = field(default_factory=StreamEnd)

    @classmethod
    def of(cls, request: httpx.Request) -> "Exchange":
        """Take up a request.

        Args:
            request: A request whose body is read.
        """
        try:
            params = json.loads(request.content)
        except (ValueError, RecursionError):
            params = None
        return cls(request, params if isinstance(params, dict) else {})

    @property
    def is_streamed(self) -> bool:
        """Whether the SDK asks for the answer in pieces."""
        return self.params.get("stream") is True

    def take_opened(self) -> httpx.Response:
        """Give the streamed answer to its reader, and keep no hold of it: it ends when freed."""
        response = self.opened.result()
        self.opened = asyncio.get_running_loop().create_future()
        return response

    def with_key(self, secret: SecretStr) -> httpx.Request:
        """Make the request for one key."""
        headers = [
            (name, value)
            for name, value in self.request.headers.raw
            if name.lower() not in _REPLACED
        ]
        headers.append((b"Authorization", f"Bearer {secret.get_secret_value()}".encode()))
        if self.is_streamed:  # so that the pieces can be read on their way
            headers = [
                (name, value) for name, value in headers if name.lower() != b"accept-encoding"
            ]
            headers.append((b"Accept-Encoding", b"identity"))
        content = (
            json.dumps(self.params | self.changes).encode()
            if self.changes
            else self.request.content
        )
        return httpx.Request(
            self.request.method,
            self.request.url,
            headers=headers,
            content=content,
            extensions=self.request.extensions,
        )


class PassedStream(httpx.AsyncByteStream):
    """Passes an answer on while it arrives, and reads along.

    Many readers do not close what they leave: a loop that is broken off, a job that is cancelled.
    So the stream also ends with the loop that reads it, and when it is freed.

    Args:
        response: The answer; its body is not read.
        read: Takes each piece.
        end: Takes how the reading ended.
    """

    def __init__(
        self, response: httpx.Response, read: Callable[[bytes], None], end: StreamEnd
    ) -> None:
        self._response = response
        self._read = read
        self._end = end
        weakref.finalize(self, end.end).atexit = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.aiter_raw():
                self._read(piece)
                yield piece
            self._end.complete = True
        except httpx.HTTPError as error:
            self._end.error = error
            raise
        finally:
            self._end.end()

    async def aclose(self) -> None:
        """Close the answer, read or not."""
        try:
            await self._response.aclose()
        finally:
            self._end.end()
