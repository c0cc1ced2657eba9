"""The possible answers of a receiver of notifications, and the reports about them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.tls import Authority, handshakes
from worker.aio.cancelling import cancel_until_ended
from worker.notifications import NotDelivered, NotificationSender, sender

SECRET = "whsec_" + "a" * 32
_Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def receiver(answer: _Answer) -> AsyncIterator[int]:
    """Serve one answer; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
                await writer.drain()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    serving: list[Any] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await cancel_until_ended(serving)


async def post(port: int, *, scheme: str = "http") -> None:
    hosts = f"127.0.0.1:{port}=private"
    await NotificationSender(hosts, (SECRET,)).post(
        f"{scheme}://127.0.0.1:{port}/?token=canary", "msg_1", {"type": "job.succeeded"}
    )


async def announce_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        await writer.drain()


async def go_on_for_ever(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


async def announce_a_little(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 3)
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def say_nothing(_: asyncio.StreamWriter) -> None:
    pass


async def speak_no_http(writer: asyncio.StreamWriter) -> None:
    writer.write(b"canary\xff\r\n\r\n")


async def hang(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [go_on_for_ever, announce_a_little])
async def test_an_answer_counts_once_its_status_has_come(answer: _Answer) -> None:
    async with receiver(answer) as port:
        await post(port)


# The receiver's behaviour, and the sentence about it, which never quotes what the receiver sent.
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (announce_for_ever, "the connection to the receiver ended without an answer"),
        (say_nothing, "the connection to the receiver ended without an answer"),
        (speak_no_http, "the receiver's answer is not HTTP, or its head is too long"),
    ],
)
async def test_a_malformed_answer_is_given_up(answer: _Answer, sentence: str) -> None:
    async with receiver(answer) as port:
        with pytest.raises(NotDelivered) as failed:
            await post(port)
    assert str(failed.value) == sentence


async def test_a_receiver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_TIMEOUT_S", 0.2)
    async with receiver(hang) as port:
        with pytest.raises(NotDelivered, match=r"^the receiver did not answer within 0\.2 s$"):
            await post(port)


async def test_a_certificate_that_is_not_accepted_is_named(tmp_path: Path) -> None:
    context = Authority(tmp_path).server_context()
    context.verify_mode = ssl.CERT_NONE
    sentence = "^the receiver does not answer: its certificate is not accepted: "
    with handshakes(context) as port, pytest.raises(NotDelivered, match=sentence):
        await post(port, scheme="https")
