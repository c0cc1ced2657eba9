"""The clients for plain functions, made at their first use, and their requests."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from worker import clients
from worker.aio import private_loop
from worker.clients import session, sync
from worker.clients.sync import SyncRotatingTransport


def test_the_clients_of_groqs_sdk_are_made_once_and_retry_nothing_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("groq", "groq_sync"):
        monkeypatch.delitem(vars(clients), name, raising=False)
        client = getattr(clients, name)
        assert getattr(clients, name) is client
        assert vars(clients)[name] is client
        assert (client.max_retries, client.api_key) == (0, "chosen-for-each-request")
        assert client._client.timeout == httpx.Timeout(None)
        monkeypatch.delitem(vars(clients), name)
    assert type(clients.groq_client()).__name__ == "AsyncGroq"
    assert type(clients.groq_sync_client()).__name__ == "Groq"
    assert clients.groq_sync_client(max_retries=3).max_retries == 3
    waits: Any = clients.groq_client(longest_wait_s=5.0)._client._transport
    assert waits._longest_wait_s == 5.0
    waits = clients.groq_sync_client(longest_wait_s=7.0)._client._transport
    assert waits._transport._longest_wait_s == 7.0
    with pytest.raises(AttributeError, match=r"^openai$"):
        _ = clients.openai


def test_a_request_of_a_plain_function_is_read_and_its_answer_comes_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []
    transport = SyncRotatingTransport()

    async def handle(request: httpx.Request) -> httpx.Response:
        seen.append(await request.aread())
        return httpx.Response(207, headers={"x-own": "1"}, content=b"whole")

    monkeypatch.setattr(transport._transport, "handle_async_request", handle)
    monkeypatch.setattr(sync, "wait_for", asyncio.run)

    def pieces() -> Any:
        yield b"a"
        yield b"b"

    request = httpx.Request("POST", "https://p.example", content=pieces())
    response = transport.handle_request(request)
    assert seen == [b"ab"]
    assert (response.status_code, response.headers["x-own"], response.content) == (
        207, "1", b"whole"
    )  # fmt: skip
    assert response.request is request


async def test_a_plain_function_does_not_block_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> None:
        pytest.fail("it ran")

    monkeypatch.setattr(private_loop, "is_running_here", lambda: True)
    with pytest.raises(RuntimeError, match="this blocks the event loop"):
        sync.wait_for(never())


def test_a_program_of_its_own_closes_what_it_opened_as_its_loop_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("closed")

    current = SimpleNamespace(close=close)
    monkeypatch.setattr(session.Runtime, "current", lambda: current)

    async def use(*, of_the_pool: bool) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(private_loop, "pool_loop", lambda: loop if of_the_pool else None)
        assert await session.runtime() is current
        assert await session.runtime() is current
        assert closed == []

    asyncio.run(use(of_the_pool=True))
    assert closed == [], "the worker closes its own"
    asyncio.run(use(of_the_pool=False))
    assert closed == ["closed"]


@pytest.mark.parametrize("in_a_worker", [True, False])
def test_a_plain_function_waits_on_the_loop_of_the_pool_or_on_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch, *, in_a_worker: bool
) -> None:
    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    pool = asyncio.new_event_loop()
    thread = threading.Thread(target=pool.run_forever)
    thread.start()
    try:
        monkeypatch.setattr(private_loop, "pool_loop", lambda: pool if in_a_worker else None)
        assert (sync.wait_for(where()) is pool) is in_a_worker
    finally:
        pool.call_soon_threadsafe(pool.stop)
        thread.join()
        pool.close()
