"""The calls of a user's own program, and the leases that they hold."""

import asyncio
import gc
from typing import Any

from sandbox.process import Sandbox
from worker.runtime import Runtime

MODEL = "openai/gpt-oss-20b"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def calls(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Return the calls that the providers have seen."""
    ledger: list[dict[str, Any]] = sandbox.ledger(full=True)["calls"]
    return ledger


async def tokens_charged() -> float:
    view = (await Runtime.current().view())["groq"]
    return sum(key.tokens for key in view.keys)


async def in_flight() -> int:
    view = (await Runtime.current().view())["groq"]
    return sum(key.in_flight for key in view.keys)


async def until_settled(*, collecting_garbage: bool = False) -> None:
    """Wait until no call to Groq holds a lease; streams are settled in the background."""
    async with asyncio.timeout(10):
        while await in_flight():
            if collecting_garbage:
                gc.collect()
            await asyncio.sleep(0.01)


async def disable_keys(service: str) -> None:
    pool = Runtime.current().rotations[service].pool
    for key in pool.keys:
        await pool.disable(key.id, by="test")


async def after_a_reset(service: str, waiting: asyncio.Task[Any]) -> Any:
    """Reset all keys of a service, wake waiting calls as a worker does; return the result."""
    rotation = Runtime.current().rotations[service]
    await rotation.pool.reset(by="test", include_disabled=True)
    async with asyncio.timeout(20):
        while not waiting.done():
            rotation.waiting.wake()
            await asyncio.sleep(0.01)
        return await waiting
