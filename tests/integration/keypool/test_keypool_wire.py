"""Connections that are kept: no answer is ever taken for another command's, and none is missed by the others."""

import asyncio
import time

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.keypool.wire import Wire


async def until_blocked(redis: Redis) -> None:
    deadline = time.monotonic() + 30
    while not (await redis.info("clients"))["blocked_clients"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_cancelled_command_leaves_no_answer_behind(redis: Redis) -> None:
    wire = Wire(redis)
    assert await wire.send("ECHO", "first") == "first"
    waiting = asyncio.create_task(wire.send("BLPOP", "list", 0))
    await until_blocked(redis)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await redis.rpush("list", "late")
    assert [await wire.send("ECHO", text) for text in "abc"] == ["a", "b", "c"]


async def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(redis: Redis) -> None:
    wire = Wire(redis)
    theirs = await wire.send("CLIENT", "ID")
    kept = wire._kept[0]  # nothing else tells when its end has been heard of
    await redis.client_kill_filter(_id=theirs)
    deadline = time.monotonic() + 30
    while not await kept.can_read():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert await wire.send("CLIENT", "ID") != theirs


async def test_many_commands_at_once_borrow_connections_and_give_them_back(redis: Redis) -> None:
    wire = Wire(redis)
    texts = [str(number) for number in range(50)]
    assert await asyncio.gather(*(wire.send("ECHO", text) for text in texts)) == texts
    async with asyncio.timeout(30):  # of 16 two are kept
        assert await asyncio.gather(*(redis.ping() for _ in range(50))) == [True] * 50


async def test_a_command_that_is_refused_costs_no_connection(redis: Redis) -> None:
    wire = Wire(redis)
    before = await wire.send("CLIENT", "ID")
    with pytest.raises(ResponseError):
        await wire.send("HGET", "too", "many", "words")
    assert await wire.send("CLIENT", "ID") == before
