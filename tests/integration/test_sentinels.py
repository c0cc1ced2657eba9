"""Connections that sentinels lead: they follow the primary, and leave the former one."""

from pathlib import Path

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
                    # One connection of the process finds the new primary, and all others go there.
                    async with connect(settings) as other:
                        await other.ping()
        blocking.close()
        with redis.Redis(port=servers.replica.port, password=PASSWORD) as primary:
            assert {name.decode() for name in primary.scan_iter("* after")} == {
                "client after",
                "pipeline after",
                "blocking after",
            }
