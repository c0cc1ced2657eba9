"""Endless and huge answers are read up to a bound, to protect the memory of a worker."""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.providers.local_servers import HI, KEY, MAIL
from worker.providers import Completion, Groq, Resend
from worker.providers.groq.stream import NoListener
from worker.verdicts import Fate, Scope, Verdict

_STREAMED = Completion.of(dict(HI.params), listener=NoListener())
_OK = b"HTTP/1.1 200 OK\r\n"
_EVENTS = b"content-type: text/event-stream\r\n"
_BLOCK = b" " * 1_000_000
_CALLS = [
    pytest.param(Groq, HI, id="completion"),
    pytest.param(Groq, _STREAMED, id="stream"),
    pytest.param(Resend, MAIL, id="email"),
]


@contextlib.asynccontextmanager
async def _answers(head: bytes, *blocks: bytes, endless: bool = False) -> AsyncIterator[str]:
    """Serve one answer to every request; an endless one repeats its last block for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            request_head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(
                int(request_head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            )
            writer.write(head + b"\r\n" + b"".join(blocks))
            await writer.drain()
            while endless and not writer.is_closing():
                writer.write(blocks[-1])
                await writer.drain()
        writer.close()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await left.wait()  # a client that stops reading has closed the connection
    server.close()


async def _verdict(make: Any, url: str, request: Any) -> Verdict:
    provider = make(url)
    verdict = (await provider.call(KEY, request)).verdict
    await provider.close()
    return verdict


def _assert_too_long(verdict: Verdict, request: Any) -> None:
    assert (verdict.code, verdict.scope) == ("oversized_answer", Scope.HOST)
    assert verdict.fate is (Fate.SAME_ACCOUNT if request is MAIL else Fate.RETRY)
    assert not verdict.definite


@pytest.mark.parametrize(("make", "request_"), _CALLS)
async def test_an_answer_that_never_ends_is_abandoned(make: Any, request_: Any) -> None:
    async with _answers(_OK, _BLOCK, endless=True) as url:
        _assert_too_long(await _verdict(make, url, request_), request_)


async def test_a_stream_with_a_line_that_never_ends_is_abandoned() -> None:
    async with _answers(_OK + _EVENTS, b"data: ", b"x" * 1_000_000, endless=True) as url:
        _assert_too_long(await _verdict(Groq, url, _STREAMED), _STREAMED)


@pytest.mark.parametrize(("make", "request_"), _CALLS)
async def test_a_small_body_that_becomes_huge_is_decompressed_to_a_bound(
    make: Any, request_: Any
) -> None:
    packing = zlib.compressobj(wbits=31)
    body = b"".join(packing.compress(_BLOCK) for _ in range(200)) + packing.flush()
    head = _OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n" % len(body)
    async with _answers(head, body) as url:
        _assert_too_long(await _verdict(make, url, request_), request_)


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_of_some_megabytes_is_read(*, packed: bool) -> None:
    body = b'{"id": "1", "more": "' + b"x" * 5_000_000 + b'"}'
    head = _OK
    if packed:
        head, body = head + b"content-encoding: deflate\r\n", zlib.compress(body)
    async with _answers(head + b"content-length: %d\r\n" % len(body), body) as url:
        assert (await _verdict(Resend, url, MAIL)).fate is Fate.DONE


async def test_the_reason_phrase_of_a_status_may_be_in_any_encoding() -> None:
    head = "HTTP/1.1 200 Zürich\r\ncontent-length: 10\r\n".encode("latin-1")
    async with _answers(head, b'{"id":"1"}') as url:
        assert (await _verdict(Resend, url, MAIL)).fate is Fate.DONE
