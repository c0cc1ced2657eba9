"""Written dead letters, for the tests of the commands and of replays."""

import asyncio
import base64
import json
from typing import Any

import redis
from redis.asyncio import Redis

from worker.deadletters import DeadLetter, DeadLetters, Message

HOUR_MS = 3_600_000


NOW_MS = 1_790_000_000_000


SECRET = "canary-2207 of a prompt"


CHAIN = [
    {
        "task": "tasks.ai.complete",
        "args": [],
        "kwargs": {"prompt": "next"},
        "options": {},
        "subtask_type": None,
    }
]


def letter(number: int = 1, **changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "task": "tasks.ai.complete",
        "queue": "ai",
        "service": "groq",
        "kind": "failed",
    }
    return DeadLetter(
        id=f"job-{number}", **fields | {"reason": "RequestRejected: [bold] no"} | changes
    )


def email(number: int = 1, **changes: Any) -> DeadLetter:
    fields = {"task": "tasks.email.send", "queue": "email", "service": "resend"}
    return letter(number, **fields | changes)


def put(
    url: str,
    *letters: DeadLetter,
    message: Message | None = Message(kwargs={"prompt": SECRET}),  # noqa: B008 - frozen
) -> None:
    async def go() -> None:
        async with Redis.from_url(url, decode_responses=True) as client:
            for letter in letters:
                await DeadLetters(client).put(letter, message.text() if message else "")

    asyncio.run(go())


def queued(url: str, queue: str) -> list[dict[str, Any]]:
    """Return the messages of a queue, the next one first.

    Each has its headers, and its body as `args`, `kwargs`, `embed`.
    """
    with redis.Redis.from_url(url) as client:
        messages = [json.loads(text) for text in reversed(client.lrange(queue, 0, -1))]
    for message in messages:
        message["args"], message["kwargs"], message["embed"] = json.loads(
            base64.b64decode(message["body"])
        )
    return messages
