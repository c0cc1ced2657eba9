"""Other SDKs over the transport that draws keys from the pool.

Each test imports its SDK itself, because that takes a second and every test process imports this
module.
"""

import asyncio
import subprocess
import sys
from typing import Any

import httpx
import pytest

from sandbox.process import Sandbox
from tests.integration.clients.program_calls import HELLO, MODEL, calls
from tests.pages import ROOT, blocks
from worker.clients import RotatingTransport, groq_client


@pytest.mark.parametrize("base_url", [None, "https://api.groq.com/openai/v1"])
async def test_openais_sdk(program: Sandbox, base_url: str | None) -> None:
    from openai import AsyncOpenAI  # noqa: PLC0415

    http = httpx.AsyncClient(transport=RotatingTransport())
    async with AsyncOpenAI(api_key="any", base_url=base_url, http_client=http) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=HELLO)
        assert whole.choices[0].message.content
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        assert len([chunk async for chunk in stream]) > 3
    assert {call["status"] for call in calls(program)} == {200}


async def test_pydantic_ai(program: Sandbox) -> None:
    from pydantic_ai import Agent  # noqa: PLC0415
    from pydantic_ai.models.groq import GroqModel  # noqa: PLC0415
    from pydantic_ai.providers.groq import GroqProvider  # noqa: PLC0415

    program.control("fault", service="groq", status=429, count=1)
    agent = Agent(GroqModel(MODEL, provider=GroqProvider(groq_client=groq_client())))
    answer = await agent.run("hello")
    assert answer.output
    assert [call["status"] for call in calls(program)] == [429, 200]


async def test_the_examples_of_the_docs(program: Sandbox) -> None:
    *_, others, script = blocks(ROOT / "docs/own-tasks.md", "python")
    names: dict[str, Any] = {}
    exec(others, names)  # noqa: S102 - what the page shows
    answer = await names["openai"].chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content
    assert (await names["agent"].run("hello")).output
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
