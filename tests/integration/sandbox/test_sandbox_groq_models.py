"""Models of the simulated Groq: reasoning, tools, streams, and models that are switched off."""

import json
import time
from typing import Any

import groq
import httpx
import pytest

from sandbox.process import Sandbox
from tests.integration.sandbox.groq_calls import MODEL, ask, refusal


async def test_a_model_that_reasons_says_so_and_may_use_its_whole_cap_for_it(
    client: groq.AsyncGroq,
) -> None:
    answer = await ask(client)
    assert answer.choices[0].message.reasoning
    assert answer.usage.completion_tokens_details.reasoning_tokens == 8  # of the 24 tokens
    assert (
        await ask(client, reasoning_effort="high")
    ).usage.completion_tokens_details.reasoning_tokens == 16
    cut = await ask(client, max_completion_tokens=8)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("", "length")
    assert cut.usage.completion_tokens == cut.usage.completion_tokens_details.reasoning_tokens == 8
    hidden = await ask(client, include_reasoning=False)
    assert hidden.choices[0].message.reasoning is None
    assert hidden.usage.completion_tokens_details.reasoning_tokens == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"reasoning_effort": "none"},  # these models cannot switch reasoning off
        {"reasoning_format": "raw"},
        {"reasoning_format": "parsed", "include_reasoning": True},
    ],
)
async def test_options_that_a_reasoning_model_does_not_take_are_refused(
    client: groq.AsyncGroq, changes: dict[str, Any]
) -> None:
    assert (await refusal(client, **changes)).status_code == 400


async def test_models_that_were_switched_off_are_refused_unless_the_organisation_keeps_them() -> (
    None
):
    kept = {"keys": ["gsk_keeps"], "models": {"llama-3.3-70b-versatile": {}}}
    with Sandbox(
        accounts={"living": [MODEL, "new"], "groq": [kept, {"keys": ["gsk_other"]}]}
    ) as sandbox:
        async with groq.AsyncGroq(
            api_key="gsk_keeps", base_url=sandbox.groq_base_url, max_retries=0
        ) as keeps:
            other = keeps.with_options(api_key="gsk_other")
            await ask(keeps, model="llama-3.3-70b-versatile")
            await ask(other, model="new")
            gone: Any = await refusal(other, model="llama-3.3-70b-versatile")
            assert (gone.status_code, gone.body["error"]["code"]) == (404, "model_not_found")
            ended: Any = await refusal(other, model="mixtral-8x7b-32768")
            assert (ended.status_code, ended.body["error"]["code"]) == (400, "model_decommissioned")
            assert [model.id for model in (await other.models.list()).data] == [MODEL, "new"]
            assert [model.id for model in (await keeps.models.list()).data][
                -1
            ] == "llama-3.3-70b-versatile"


async def test_all_models_are_listed(client: groq.AsyncGroq) -> None:
    assert MODEL in [model.id for model in (await client.models.list()).data]


async def test_tools_and_json_are_answered_if_they_are_demanded(client: groq.AsyncGroq) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    choice = (await ask(client, tools=tools, tool_choice="required")).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "sandbox"}
    choice = (await ask(client, response_format={"type": "json_object"})).choices[0]
    assert json.loads(choice.message.content) == {"answer": "sandbox"}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": parameters}}
    choice = (await ask(client, response_format=wanted)).choices[0]
    assert json.loads(choice.message.content) == {"city": "sandbox"}


async def test_a_stream_ends_with_the_usage(client: groq.AsyncGroq) -> None:
    chunks = [chunk async for chunk in await ask(client, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Sandbox ")
    assert chunks[0].x_groq.id == chunks[-1].x_groq.id
    assert chunks[-1].x_groq.usage.completion_tokens == chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].choices[0].finish_reason == "stop"
    tools = [{"type": "function", "function": {"name": "weather"}}]
    chunks = [
        chunk async for chunk in await ask(client, stream=True, tools=tools, tool_choice="required")
    ]
    assert chunks[1].choices[0].delta.reasoning
    assert chunks[2].choices[0].delta.tool_calls[0].function.name == "weather"


async def test_a_stream_may_take_its_time() -> None:
    with Sandbox(groq_stream_ms=20) as sandbox:
        async with groq.AsyncGroq(
            api_key=sandbox.keys("groq")[0], base_url=sandbox.groq_base_url, max_retries=0
        ) as client:
            began = time.monotonic()
            chunks = [chunk async for chunk in await ask(client, stream=True)]
            assert time.monotonic() - began > 0.02 * len(chunks)


async def test_a_stream_can_end_early_or_break(sandbox: Sandbox, client: groq.AsyncGroq) -> None:
    sandbox.control("fault", service="groq", kind="stream_error", count=1)
    chunks = [chunk async for chunk in await ask(client, stream=True)]
    assert chunks[-1].x_groq.error
    sandbox.control("fault", service="groq", kind="stream_cut", count=1)
    with pytest.raises((httpx.RemoteProtocolError, groq.APIConnectionError)):
        async for _ in await ask(client, stream=True):
            pass
    sandbox.control("fault", service="groq", kind="stream_hang", count=1)
    with pytest.raises((httpx.ReadTimeout, groq.APIConnectionError)):
        async for _ in await ask(client.with_options(timeout=0.5), stream=True):
            pass
