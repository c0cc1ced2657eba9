"""Holds one HTTP request that an SDK in a user's task made, and its answer.

Only its key and the fields in `changes` are replaced; a streamed answer is asked for uncompressed.
"""

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

    It has no reference to the stream, so that a stream which nobody reads any more can be freed.

    Attributes:
        ended: Set when the reader has read the whole stream, closed it or dropped it.
        error: The error that interrupted the stream, if any.
        complete: Whether the stream was read to its end.
    """

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.error: Exception | None = None
        self.complete = False
        self._loop: Final = asyncio.get_running_loop()

    def end(self) -> None:
        """Note that the reader is finished with the stream; may be called from any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.ended.set)


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and its answer.

    Attributes:
        request: The request as the SDK made it; its body is read.
        params: The JSON object in the body; empty if the body is something else.
        changes: Fields of `params` that are replaced for the chosen key.
        response: The latest complete answer.
        error: The error of the latest call, if the call brought no answer.
        opened: Gets a streamed answer as soon as its headers have arrived.
        end: How the reading of the streamed answer ended.
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
        """Make the exchange of a request.

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
        """Return the streamed answer, and drop our reference: the stream ends when it is freed."""
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
        if self.is_streamed:  # uncompressed, so that we can read the pieces as they pass
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
    """Passes an answer on while it arrives, and gives each piece to `read` as well.

    Many readers do not close the stream, for example if they leave their loop early or if their job
    is cancelled. So the stream also ends when its iteration ends, and when it is freed.

    Args:
        response: The answer; its body is not read.
        read: Is called with each piece.
        end: Records how the reading ended.
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
