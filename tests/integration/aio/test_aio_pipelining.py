"""Results and messages that jobs send over one connection, and its loss."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.aio.pipelining import Pipelining


@pytest.fixture
async def pipelining(url: str, request: pytest.FixtureRequest) -> AsyncIterator[Pipelining]:
    retry = Retry(NoBackoff(), getattr(request, "param", 1))
    made = Pipelining(redis.asyncio.Redis.from_url(url, retry=retry))
    yield made
    await made.close()


async def _killed_while_it_waits(pipelining: Pipelining, books: Any) -> "asyncio.Future[Any]":
    """Send a command that waits, and make the server close its connection meanwhile."""
    (theirs,) = await pipelining.run([("CLIENT", "ID")])
    waiting = pipelining.run([("BLPOP", "list", 0)])
    async with asyncio.timeout(30):
        while "cmd=blpop" not in await asyncio.to_thread(_clients, books):  # noqa: ASYNC110 - the server notifies nobody
            await asyncio.sleep(0)
    await asyncio.to_thread(books.client_kill_filter, _id=theirs)
    return waiting


def _clients(books: Any) -> str:
    return str(books.execute_command("CLIENT", "LIST"))


async def test_replies_are_bytes_and_an_error_fails_its_own_command_only(
    pipelining: Pipelining, books: Any
) -> None:
    books.set("text", "no list")
    failed, read, stored = (
        pipelining.run([("LPUSH", "text", "x")]),
        pipelining.run([("GET", "text"), ("GET", "nothing")]),
        pipelining.store("result", "ä", 60),
    )
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        await failed
    assert await read == [b"no list", None]
    assert await stored is None
    assert await pipelining.store("result", "later", 60) == "ä".encode()


async def test_commands_whose_connection_is_lost_are_repeated(
    pipelining: Pipelining, books: Any
) -> None:
    waiting = await _killed_while_it_waits(pipelining, books)
    await asyncio.to_thread(books.lpush, "list", "x")
    assert await waiting == [[b"list", b"x"]]


@pytest.mark.parametrize("pipelining", [0], indirect=True)
async def test_they_are_not_repeated_if_the_caller_does_that(
    pipelining: Pipelining, books: Any
) -> None:
    waiting = await _killed_while_it_waits(pipelining, books)
    with pytest.raises(redis.ConnectionError):
        await waiting
    assert await pipelining.run([("PING",)]) == [b"PONG"]


async def test_a_connection_that_idled_for_long_is_reopened(
    pipelining: Pipelining, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await pipelining.run([("CLIENT", "ID")])
    assert await pipelining.run([("CLIENT", "ID")]) == before
    monkeypatch.setattr("worker.aio.shared_connection._IDLE_S", 0.0)
    assert await pipelining.run([("CLIENT", "ID")]) != before
