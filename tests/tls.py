"""A private certificate authority, and TLS in front of servers without TLS."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sandbox.redis import free_port

TRUSTS_NOBODY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A context for clients that use plain HTTP: httpx would take 25 ms to read the authorities."""

_TLS_HANDSHAKE = b"\x16"


class Authority:
    """A private authority, with a certificate for 127.0.0.1 and one for clients."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._openssl(
            "req", "-x509", "-days", "1", "-subj", "/CN=Private",
            # Python 3.13 trusts no authority without a key usage.
            "-addext", "keyUsage=critical,keyCertSign", *self._new("ca"),
        )  # fmt: skip
        for name, names in (("server", "IP:127.0.0.1"), ("client", "DNS:worker")):
            self._openssl(
                "req", "-x509", "-days", "1", "-subj", f"/CN={name}",
                "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", f"subjectAltName={names}",
                "-addext", "basicConstraints=critical,CA:FALSE", *self._new(name),
            )  # fmt: skip

    @property
    def trust(self) -> str:
        """The option of a URL that makes a client trust this authority."""
        return f"ssl_ca_certs={self.ca}"

    @property
    def client(self) -> str:
        """The options of a URL with the client's certificate."""
        return f"ssl_certfile={self._folder}/client.pem&ssl_keyfile={self._folder}/client.key"

    def server_context(self) -> ssl.SSLContext:
        """The context of a server that accepts only clients certified by this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _new(self, name: str) -> tuple[str, ...]:
        return (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


@contextmanager
def handshakes(context: ssl.SSLContext) -> Iterator[int]:
    """Open a port that makes handshakes and reports why one fails; yield the port."""

    def greet() -> None:
        with suppress(OSError):
            while True:
                peer, _ = listening.accept()
                with peer, suppress(OSError), context.wrap_socket(peer, server_side=True) as near:
                    near.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=greet, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def tls_before(target: int, context: ssl.SSLContext, *, port: int = 0) -> Iterator[int]:
    """Open a port with TLS in front of a server; yield the port.

    A connection that begins without TLS is forwarded as it is, because sentinels connect so.
    """
    door = _Door(target, context, port or free_port())
    thread = threading.Thread(target=door.run)
    thread.start()
    door.ready.wait()
    try:
        yield door.port
    finally:
        door.close()
        thread.join()


class _Door:
    def __init__(self, target: int, context: ssl.SSLContext, port: int) -> None:
        self.port, self._target, self._context = port, target, context
        self.ready = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        with socket.create_server(("127.0.0.1", self.port), backlog=100) as listening:
            listening.setblocking(False)
            self.ready.set()
            async with asyncio.TaskGroup() as group:
                accepting = group.create_task(self._accept(listening, group))
                await self._end.wait()
                accepting.cancel()
                for task in group._tasks:
                    task.cancel()

    async def _accept(self, listening: socket.socket, group: asyncio.TaskGroup) -> None:
        while True:
            accepted, _ = await self._loop.sock_accept(listening)
            group.create_task(self._pass_on(accepted))

    async def _pass_on(self, accepted: socket.socket) -> None:
        with suppress(OSError, ssl.SSLError):
            await _readable(accepted)
            begins = accepted.recv(1, socket.MSG_PEEK)
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            context = self._context if begins == _TLS_HANDSHAKE else None
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=context
            )
            near = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            try:
                back, far = await asyncio.open_connection("127.0.0.1", self._target)
                try:
                    await asyncio.gather(_copy(reader, far), _copy(back, near))
                finally:
                    far.close()
            finally:
                near.close()


async def _readable(sock: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
        await sink.drain()
    sink.close()
