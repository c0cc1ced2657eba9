"""Sends the commands of all jobs on one connection; no job waits for another job's answer."""

from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis

from worker.aio.shared_connection import SharedConnection
from worker.redis.resp import Argument, Encoded, encode_command


class AutoPipeline(SharedConnection):
    """The shared connection of a client that decodes answers to text."""

    async def send(self, *command: Argument | Encoded) -> Any:
        """Send a command and wait for its answer.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, is silent for too long, or refuses
                the command.
        """
        link = await self.link()
        return await link.send(encode_command(command))


_PIPELINES: WeakKeyDictionary[Redis, AutoPipeline] = WeakKeyDictionary()


def pipeline_of(redis: Redis) -> AutoPipeline:
    """Return the pipeline of a client. A client has only one, so its users share a connection."""
    pipeline = _PIPELINES.get(redis)
    if pipeline is None:
        pipeline = _PIPELINES[redis] = AutoPipeline(redis)
    return pipeline
