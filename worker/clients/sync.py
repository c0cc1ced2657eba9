"""Runs clients from plain functions: in a thread of the worker, or in a program without a loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx

from worker.aio import private_loop
from worker.clients.transport import RotatingTransport

ResultT = TypeVar("ResultT")


def wait_for(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine on the loop of the pool, or on a private one, and wait for it.

    Raises:
        RuntimeError: The caller runs on an event loop itself, which the wait would block.
    """
    if private_loop.is_running_here():
        coroutine.close()
        raise RuntimeError("this blocks the event loop: use the client for coroutines here")
    loop = private_loop.pool_loop()
    result: ResultT = (
        private_loop.run(coroutine)
        if loop is None
        else private_loop.result_of(asyncio.run_coroutine_threadsafe(coroutine, loop))
    )
    return result


class SyncRotatingTransport(httpx.BaseTransport):
    """Like `RotatingTransport`, for synchronous clients.

    A streamed answer arrives in one piece.

    Args:
        service: As for `RotatingTransport`.
        longest_wait_s: As for `RotatingTransport`.
    """

    def __init__(self, service: str = "groq", *, longest_wait_s: float | None = None) -> None:
        self._transport = RotatingTransport(service, longest_wait_s=longest_wait_s)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; it raises the same errors as `RotatingTransport`."""
        request.read()
        return wait_for(self._whole(request))

    async def _whole(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(
            response.status_code, headers=response.headers, content=content, request=request
        )
