"""One connection for all commands.

No reply is taken for another command's reply, and none is lost.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from sandbox.redis import EmbeddedRedis
from worker.aio.shared_connection import Link
from worker.redis import client as client_module
from worker.redis.autopipeline import AutoPipeline, pipeline_of
from worker.redis.client import IdleClosingPool
from worker.redis.resp import encode_command


@pytest.fixture
async def pipeline(redis: Redis) -> AutoPipeline:
    return AutoPipeline(redis)


@pytest.fixture
async def hurried(redis_url: str) -> AsyncIterator[Redis]:
    """A client with one connection, which waits for half a second only."""
    pool = BlockingConnectionPool.from_url(
        redis_url, decode_responses=True, socket_timeout=0.5, max_connections=1
    )
    client = Redis.from_pool(pool)
    yield client
    await client.aclose()


async def until_under_way(redis: Redis, client_id: int, command: str) -> None:
    """Wait until the server has begun a command."""
    deadline = time.monotonic() + 30
    while command not in str(await redis.client_list(client_id=[str(client_id)])):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_many_commands_at_once_share_one_connection(
    redis: Redis, pipeline: AutoPipeline
) -> None:
    texts = [str(number) for number in range(500)]
    assert await asyncio.gather(*(pipeline.send("ECHO", text) for text in texts)) == texts
    assert len(set(await asyncio.gather(*(pipeline.send("CLIENT", "ID") for _ in range(20))))) == 1


async def test_a_push_message_of_the_server_answers_no_command(
    redis: Redis, redis_url: str
) -> None:
    async with Redis.from_url(redis_url, decode_responses=True, protocol=3) as client:
        pipeline = AutoPipeline(client)
        await pipeline.send("CLIENT", "TRACKING", "ON", "BCAST")
        client_id = await pipeline.send("CLIENT", "ID")
        asking = asyncio.create_task(pipeline.send("BLPOP", "list", 20))
        await until_under_way(redis, client_id, "blpop")
        await redis.set("watched", 1)  # the server then notifies that connection
        await redis.lpush("list", "word")
        assert await asking == ["list", "word"]


async def test_a_cancelled_command_leaves_no_answer_behind(
    redis: Redis, pipeline: AutoPipeline
) -> None:
    first = await pipeline.send("CLIENT", "ID")
    waiting = asyncio.create_task(pipeline.send("BLPOP", "list", 0))
    await until_under_way(redis, first, "blpop")
    behind = [asyncio.create_task(pipeline.send("ECHO", text)) for text in "abcd"]
    await asyncio.sleep(0)
    for cancelled in (waiting, behind[1]):
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    await redis.rpush("list", "late")
    assert await asyncio.gather(behind[0], *behind[2:]) == ["a", "c", "d"]
    assert await pipeline.send("CLIENT", "ID") == first


async def test_a_connection_that_the_server_closed_is_opened_again(
    redis: Redis, pipeline: AutoPipeline
) -> None:
    theirs = await pipeline.send("CLIENT", "ID")
    link = await pipeline.link()
    await redis.client_kill_filter(_id=theirs)
    await until_lost(link)
    assert await pipeline.send("CLIENT", "ID") != theirs
    async with asyncio.timeout(30):  # and the old connection was returned: there are sixteen
        assert await asyncio.gather(*(redis.ping() for _ in range(50))) == [True] * 50


async def test_a_lost_connection_fails_the_commands_that_wait_for_an_answer(
    redis: Redis, pipeline: AutoPipeline
) -> None:
    theirs = await pipeline.send("CLIENT", "ID")
    waiting = [
        asyncio.create_task(pipeline.send(*command))
        for command in (("BLPOP", "list", 0), ("ECHO", "a"))
    ]
    await until_under_way(redis, theirs, "blpop")
    await redis.client_kill_filter(_id=theirs)
    for lost in waiting:
        with pytest.raises(redis_error("ConnectionError"), match="lost before the answer came"):
            await lost
    assert await pipeline.send("ECHO", "b") == "b"


async def test_sending_on_a_connection_that_was_just_lost_fails_at_once(
    redis: Redis, pipeline: AutoPipeline
) -> None:
    theirs = await pipeline.send("CLIENT", "ID")
    link = await pipeline.link()  # others may close it before its user goes on
    await redis.client_kill_filter(_id=theirs)
    await until_lost(link)
    async with asyncio.timeout(30):
        with pytest.raises(redis_error("ConnectionError"), match="lost before"):
            await link.send(encode_command(("PING",)))


async def test_a_connection_that_was_closed_as_soon_as_it_was_open_is_not_used(
    redis: Redis, hurried: Redis
) -> None:
    connection = await hurried.connection_pool.get_connection()
    await connection.send_command("CLIENT", "ID")
    await redis.client_kill_filter(_id=await connection.read_response())
    deadline = time.monotonic() + 30
    while not connection._reader.at_eof():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert not Link(connection, 20.0).is_usable()
    await hurried.connection_pool.release(connection)


async def until_lost(link: Link) -> None:
    deadline = time.monotonic() + 30
    while not link._lost:  # its transport begins to close earlier
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_server_that_keeps_silent_is_given_up(redis: Redis, hurried: Redis) -> None:
    pipeline = AutoPipeline(hurried)
    assert await pipeline.send("ECHO", "a") == "a"
    waiting = [
        asyncio.create_task(pipeline.send(*command))
        for command in (("BLPOP", "list", 0), ("ECHO", "b"))
    ]
    for late in waiting:
        with pytest.raises(redis_error("TimeoutError"), match=r"has not answered for 0\.5 s"):
            await late
    assert await pipeline.send("ECHO", "c") == "c"


async def test_a_connection_whose_answers_come_in_time_is_kept_however_long_it_is_busy(
    redis: Redis, hurried: Redis
) -> None:
    pipeline = AutoPipeline(hurried)

    async def ask() -> None:
        ends_s = time.monotonic() + 1.2
        while time.monotonic() < ends_s:
            assert await pipeline.send("BLPOP", "nothing", 0.05) is None

    await ask()
    assert await pipeline.send("ECHO", "a") == "a"


async def test_a_connection_that_idled_is_reopened(
    pipeline: AutoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await pipeline.send("CLIENT", "ID")
    assert await pipeline.send("CLIENT", "ID") == first
    monkeypatch.setattr("worker.aio.shared_connection._IDLE_S", 0.0)
    assert await pipeline.send("CLIENT", "ID") != first


async def test_every_command_fails_while_there_is_no_server_and_later_ones_succeed(
    tmp_path: Path,
) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        retry = Retry(NoBackoff(), 0)
        client = Redis.from_pool(
            BlockingConnectionPool.from_url(server.url, decode_responses=True, retry=retry)
        )
        pipeline = AutoPipeline(client)
        assert await pipeline.send("PING") == "PONG"
        await asyncio.to_thread(server.stop)
        for _ in range(2):
            outcomes = await asyncio.gather(
                *(pipeline.send("PING") for _ in range(5)), return_exceptions=True
            )
            assert {type(outcome) for outcome in outcomes} == {redis_error("ConnectionError")}
        await asyncio.to_thread(server.start)
        assert await pipeline.send("PING") == "PONG"
        await client.aclose()


async def test_closing_the_client_waits_for_no_answer(hurried: Redis) -> None:
    pipeline = AutoPipeline(hurried)
    assert await pipeline.send("ECHO", "a") == "a"
    waiting = asyncio.create_task(pipeline.send("BLPOP", "list", 0))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):  # without help, it would be late after half a second
        await hurried.aclose()
        with pytest.raises(redis_error("ConnectionError")):
            await waiting


async def test_a_command_that_is_refused_costs_no_connection(pipeline: AutoPipeline) -> None:
    before = await pipeline.send("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await pipeline.send("HGET", "too", "many", "words")
    assert await pipeline.send("CLIENT", "ID") == before


def redis_error(name: str) -> type[Exception]:
    """One of redis-py's errors that has the name of a Python error."""
    return getattr(redis.exceptions, name)  # type: ignore[no-any-return]


async def test_a_connection_that_nobody_uses_is_closed(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_IDLE_S", 0.05)
    connections = IdleClosingPool.from_url(redis_url, client_name="idle", max_connections=6)

    async def count() -> int:
        return sum(connection["name"] == "idle" for connection in await redis.client_list())

    async with Redis.from_pool(connections) as client:
        pipeline = pipeline_of(client)
        await pipeline.send("PING")
        assert len(set(await asyncio.gather(*(client.client_id() for _ in range(4))))) == 4
        deadline = time.monotonic() + 30
        while await count() > 1:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert await pipeline.send("ECHO", "here") in {"here", b"here"}, (
            "the pipeline keeps its connection"
        )
        assert await client.ping()
