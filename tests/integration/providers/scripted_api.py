"""An HTTP API with scripted answers."""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class SeenRequest:
    """One request as the API received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass
class ScriptedApi:
    """Answers requests in the order of its script, then with `default`.

    If it accepts batches, it answers a probe for them (an empty batch) without the script, as
    Resend does.
    """

    url: str = ""
    seen: list[SeenRequest] = field(default_factory=list)
    default: Callable[[SeenRequest], bytes] | None = None
    takes_batches: bool = True
    release: asyncio.Event = field(default_factory=asyncio.Event)
    _script: deque[tuple[str, bytes]] = field(default_factory=deque)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @staticmethod
    def http(status: int, body: Any = b"", headers: dict[str, str] | None = None) -> bytes:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(content))} | (
            headers or {}
        )
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode() + content

    def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        self._script.append(("keep", self.http(status, body, headers)))

    def reset_before_answer(self) -> None:
        self._script.append(("reset", b""))

    def reset_after_half(self, body: bytes) -> None:
        whole = self.http(200, body)
        self._script.append(("reset", whole[: -len(body) // 2]))

    def close_after_half(self, body: bytes) -> None:
        whole = self.http(200, body)
        self._script.append(("close", whole[: -len(body) // 2]))

    def raw(self, data: bytes, *, then: str = "close") -> None:
        """Send these bytes, then `close`, `reset` or `keep` the connection."""
        self._script.append((then, data))

    def hang(self) -> None:
        """Read the request, then send nothing until `release` is set."""
        self._script.append(("hang", b""))

    def trickle(self, data: bytes) -> None:
        """Send these bytes again and again, without end."""
        self._script.append(("trickle", data))

    async def arrived(self, count: int) -> None:
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: len(self.seen) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await self._serve_one(reader, writer):
            pass

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {
            name.lower(): value
            for name, value in (line.split(": ", 1) for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if self.takes_batches and (path, body) == ("/emails/batch", b"[]"):
            writer.write(self.http(422, {"statusCode": 422, "name": "validation_error"}))
            return True
        request = SeenRequest(method, path, headers, body)
        async with self._arrived:
            self.seen.append(request)
            self._arrived.notify_all()
        if not self._script and self.default is not None:
            kind, data = "keep", self.default(request)
        else:
            kind, data = self._script.popleft()
        if kind == "hang":
            await self.release.wait()
            return False
        while kind == "trickle":
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(data)
        await writer.drain()
        if kind == "reset":
            # Linger 0 makes the kernel send RST instead of FIN.
            writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            writer.transport.abort()
        return kind == "keep"
