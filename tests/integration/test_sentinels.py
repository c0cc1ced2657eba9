"""Connections by sentinels: they follow the primary, and leave the former primary."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from config.settings import Settings
from config.urls import SecretUrl
from tests.failover import PASSWORD, failovers
from worker.aio.connections import parameters_of
from worker.redis.autopipeline import pipeline_of
from worker.redis.client import connect


async def test_nothing_is_written_to_a_former_primary_that_does_not_know_it_yet(
    tmp_path: Path,
) -> None:
    with failovers(tmp_path) as servers:
        settings = Settings(redis_url=SecretUrl(servers.url))
        url = settings.redis_url.get_secret_value()
        blocking = redis.Redis.from_pool(redis.ConnectionPool(**parameters_of(url)))
        async with connect(settings) as client:
            pipeline = pipeline_of(client)
            for moment in ("before", "after"):
                await client.set(f"client {moment}", "x")
                await pipeline.send("SET", f"pipeline {moment}", "x")
                blocking.set(f"blocking {moment}", "x")
                if moment == "before":
                    with servers.frozen(servers.primary):
                        servers.await_failover(servers.replica)
                    # One connection of the process finds the new primary, and all others follow.
                    async with connect(settings) as other:
                        await other.ping()
        blocking.close()
        with redis.Redis(port=servers.replica.port, password=PASSWORD) as primary:
            assert {name.decode() for name in primary.scan_iter("* after")} == {
                "client after",
                "pipeline after",
                "blocking after",
            }


async def test_a_primary_that_dies_while_it_is_greeted_is_a_lost_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [await _word(reader) for _ in range(int(line[1:]))]
            if words[0] == b"ROLE":
                break
            writer.write(answers.get(words[0], b"+OK\r\n"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        address = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%d\r\n" % (len(str(port)), port)
        answers = {b"SENTINEL": address, b"PING": b"+PONG\r\n", b"HELLO": b"%1\r\n+proto\r\n:3\r\n"}
        url = f"sentinel://127.0.0.1:{port}?master_name=main"
        async with connect(Settings(redis_url=SecretUrl(url))) as client:
            with pytest.raises(redis.ConnectionError, match="closed"):
                await client.ping()
        blocking = redis.Redis.from_pool(redis.ConnectionPool(**parameters_of(url)))
        with blocking, pytest.raises(redis.ConnectionError, match="closed"):
            await asyncio.to_thread(blocking.ping)


async def test_a_lost_connection_is_the_first_to_greet_the_next_primary() -> None:
    """The process has not learned about the new primary from another source yet."""
    greeted, ports = list[int](), list[int]()
    served = dict[asyncio.Task[Any] | None, asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here = writer.get_extra_info("sockname")[1]
        served[asyncio.current_task()] = writer
        while line := await reader.readline():
            words = [await _word(reader) for _ in range(int(line[1:]))]
            port = b"%d" % ports[-1]
            if words[0] == b"ROLE":
                greeted.append(here)
            answers = {
                b"SENTINEL": b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port),
                b"HELLO": b"%1\r\n+proto\r\n:3\r\n",
                b"ROLE": b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
                b"PING": b"+PONG\r\n",
            }
            writer.write(answers.get(words[0], b"+OK\r\n"))
        writer.close()

    async def drop_all() -> None:
        for writer in served.values():
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        if served:
            await asyncio.wait(list(served))
        served.clear()

    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as first,
        await asyncio.start_server(serve, "127.0.0.1", 0) as second,
    ):
        first_port, second_port = (server.sockets[0].getsockname()[1] for server in (first, second))
        url = f"sentinel://127.0.0.1:{first_port}?master_name=main"
        blocking = redis.Redis.from_pool(redis.ConnectionPool(**parameters_of(url)))
        async with connect(Settings(redis_url=SecretUrl(url))) as client:
            for ask in (client.ping, lambda: asyncio.to_thread(blocking.ping)):
                greeted.clear()
                for port in (first_port, second_port):
                    ports.append(port)
                    await drop_all()
                    with suppress(redis.ConnectionError):  # the lost connection itself
                        await ask()
                    assert await ask()
                assert greeted == [first_port, second_port]
        blocking.close()
        await drop_all()


async def _word(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline())[1:])
    return (await reader.readexactly(size + 2))[:-2]
