"""Calls to the simulated Groq with the real SDK."""

from typing import Any

import groq
import pytest

MODEL = "openai/gpt-oss-20b"
MESSAGES: Any = [{"role": "user", "content": "hello in json"}]


async def ask(client: groq.AsyncGroq, **changes: Any) -> Any:
    """Request a completion."""
    return await client.chat.completions.create(
        **({"model": MODEL, "messages": MESSAGES} | changes)
    )


async def refusal(client: groq.AsyncGroq, **changes: Any) -> groq.APIStatusError:
    """Request a completion that is refused, and return the refusal."""
    with pytest.raises(groq.APIStatusError) as refused:
        await ask(client, **changes)
    return refused.value
