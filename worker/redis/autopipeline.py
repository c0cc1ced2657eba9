"""Auto-pipelining: the commands of all jobs share one connection, and none waits for another."""

from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis

from worker.aio.wire import Wire
from worker.redis.resp import Argument, Encoded, encode_command


class AutoPipeline(Wire):
    """The wire of a client that decodes answers to text."""

    async def send(self, *command: Argument | Encoded) -> Any:
        """Send a command and wait for its answer.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, is silent for too long, or refuses
                the command.
        """
        link = await self.link()
        return await link.send(encode_command(command))


_WIRES: WeakKeyDictionary[Redis, AutoPipeline] = WeakKeyDictionary()


def pipeline_of(redis: Redis) -> AutoPipeline:
    """Return the one pipeline of a client: all its users share a connection."""
    wire = _WIRES.get(redis)
    if wire is None:
        wire = _WIRES[redis] = AutoPipeline(redis)
    return wire
