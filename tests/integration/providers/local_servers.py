"""Servers on this machine, each scripted by a test's coroutine, and their certificates."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from worker.providers import Completion, Resend, SendRequest
from worker.verdicts import Verdict

KEY = SecretStr("re_canary_0123456789")
HI = Completion.of({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
MAIL = SendRequest.single({"from": "a@shop.example", "to": "ann@example.org"}, "job-1")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def verdict_of(url: str, request: Any = MAIL, **options: Any) -> Verdict:
    mailer = Resend(url, **options)
    try:
        return (await mailer.call(KEY, request)).verdict
    finally:
        await mailer.close()


@contextlib.asynccontextmanager
async def serving(
    serve: Serve, *, tls: ssl.SSLContext | None = None, backlog: int = 100
) -> AsyncIterator[int]:
    """Serve each connection with a coroutine, and yield the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(
                asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError
            ):
                await serve(reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=tls, backlog=backlog)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def accept_email(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept one email."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"1"}')
    await writer.drain()


@dataclass
class Authority:
    """A private authority, and a server certificate from it for 127.0.0.1."""

    folder: Path

    @property
    def root(self) -> str:
        return str(self.folder / "root.pem")

    @property
    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context
