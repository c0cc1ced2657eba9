"""The connections' transport handles the answers and errors of the library below it."""

import asyncio
from typing import Any

import aiohttp
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from tests.unit.unstarted_answers import Streamed
from worker.aio.errors import SoftTimeLimit
from worker.providers import connections
from worker.providers.connections import CallProgress, on_sent

REQUEST = httpx.Request("POST", "https://p.example", content=b"{}")


class _Below:
    """The transport of the library: it answers or fails as planned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.progress: list[CallProgress] = []
        self.requests: list[httpx.Request] = []

        async def handle(_: Any, request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            self.progress.append(connections._progress.get())
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            assert isinstance(outcome, httpx.Response)
            return outcome

        monkeypatch.setattr(AiohttpTransport, "handle_async_request", handle)
        self._client = connections.shared_client(
            "https://p.example", timeout_s=1.0, max_connections=1, keepalive_expiry_s=1.0
        )

    async def send(self, request: httpx.Request = REQUEST) -> httpx.Response:
        return await self._client._transport.handle_async_request(request)


async def test_an_answer_is_given_as_soon_as_its_head_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streamed = Streamed(b"ab", b"c")
    below = _Below(monkeypatch, httpx.Response(200, stream=streamed))
    reports: list[str] = []
    on_sent.set(lambda: reports.append("sent"))
    response = await below.send()
    below.progress[0].leave()
    assert reports == ["sent"]
    assert below.requests == [REQUEST]
    assert not response.is_stream_consumed
    assert await response.aread() == b"abc"
    await response.aclose()
    assert streamed.closed >= 1


async def test_a_large_request_leaves_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    below = _Below(monkeypatch, httpx.Response(200, stream=Streamed()))
    await below.send(httpx.Request("POST", "https://p.example", content=bytes(100_000)))
    [sent] = below.requests
    assert isinstance(sent.stream, httpx.AsyncByteStream)
    assert [len(piece) async for piece in sent.stream] == [65_536, 34_464]


async def test_a_connection_that_the_far_side_has_dropped_is_replaced_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped = connections._DroppedError()
    below = _Below(monkeypatch, dropped, dropped, httpx.Response(200, stream=Streamed()))
    assert (await below.send()).status_code == 200
    assert len(set(map(id, below.progress))) == 3, "each attempt has its own progress"
    assert len(below.requests) == 3


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (TimeoutError(), httpx.PoolTimeout),
        (aiohttp.InvalidURL("x"), httpx.UnsupportedProtocol),
        (OSError(111, "x"), httpx.ConnectError),
        (asyncio.CancelledError(), asyncio.CancelledError),
        (SoftTimeLimit(), SoftTimeLimit),
    ],
)
async def test_the_error_says_how_far_the_call_had_come(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    below = _Below(monkeypatch, error)
    with pytest.raises(raised) as met:
        await below.send()
    assert type(met.value) is raised
    assert met.value is error or met.value.__cause__ is error
    assert len(below.requests) == 1


async def test_an_answer_that_breaks_off_is_a_read_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    below = _Below(
        monkeypatch, httpx.Response(200, stream=Streamed(b"a", error=aiohttp.ClientOSError()))
    )
    response = await below.send()
    below.progress[0].connected = True
    below.progress[0].leave()
    with pytest.raises(httpx.ReadError):
        await response.aread()
