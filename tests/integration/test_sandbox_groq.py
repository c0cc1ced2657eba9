"""The simulated Groq, met with the real SDK."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import groq
import httpx
import pytest

from sandbox.process import Sandbox

_MODEL = "openai/gpt-oss-20b"
_ASK: Any = [{"role": "user", "content": "hello in json"}]


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(
        groq_keys=3, groq_keys_per_org=2, groq_rpm=5, groq_tpm=2_000, grace_ms=5_000, seed=1
    ) as running:
        yield running


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.control("reset")
    running.control("limits", service="groq", rpm=5, tpm=2_000, itpm=0, otpm=0)
    return running


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[groq.AsyncGroq]:
    async with groq.AsyncGroq(
        api_key=sandbox.keys("groq")[0], base_url=sandbox.groq_base_url, max_retries=0, timeout=5.0
    ) as client:
        yield client


async def _ask(client: groq.AsyncGroq, **changes: Any) -> Any:
    return await client.chat.completions.create(**({"model": _MODEL, "messages": _ASK} | changes))


async def _refusal(client: groq.AsyncGroq, **changes: Any) -> groq.APIStatusError:
    with pytest.raises(groq.APIStatusError) as refused:
        await _ask(client, **changes)
    return refused.value


async def test_a_completion_has_text_usage_and_the_documented_headers(
    client: groq.AsyncGroq,
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=_MODEL, messages=_ASK, max_tokens=100
    )
    completion = await raw.parse()
    assert completion.choices[0].message.content.startswith("Sandbox ")
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 24)
    assert completion.x_groq.id == raw.headers["x-request-id"]
    assert raw.headers["x-ratelimit-limit-requests"] == "14400"  # of the day
    assert raw.headers["x-ratelimit-remaining-requests"] == "14399"
    assert raw.headers["x-ratelimit-limit-tokens"] == "2000"  # of the minute
    assert (
        1_896 <= int(raw.headers["x-ratelimit-remaining-tokens"]) < 1_972
    )  # what was asked for is reserved
    for name in ("requests", "tokens"):
        assert re.fullmatch(r"\d(\.\d{1,3})?s", raw.headers[f"x-ratelimit-reset-{name}"])
    assert "retry-after" not in raw.headers


async def test_an_answer_is_cut_at_the_bound(client: groq.AsyncGroq) -> None:
    completion = await _ask(client, max_completion_tokens=5)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 5


async def test_what_was_reserved_and_not_used_is_given_back(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    await _ask(client, max_completion_tokens=1_900)
    await _ask(client, max_completion_tokens=1_900)
    assert sandbox.ledger()["services"]["groq"]["tokens"] == 56


async def test_a_refusal_says_who_what_and_how_long_in_the_recorded_words(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    for _ in range(5):
        await _ask(client)
    refused = await _refusal(client)
    assert isinstance(refused, groq.RateLimitError)
    organisation = sandbox.state()["groq"][0]["account"]
    body: Any = refused.body
    assert body["error"]["code"] == "rate_limit_exceeded"
    assert body["error"]["type"] == "requests"
    found = re.match(
        rf"Rate limit reached for model `{_MODEL}` in organization `{organisation}` service tier `on_demand` on "
        r"requests per minute \(RPM\): Limit 5, Used 5, Requested 1\. Please try again in (\d+(?:\.\d+)?)s\. ",
        body["error"]["message"],
    )
    assert found
    assert 1 < float(found.group(1)) <= int(refused.response.headers["retry-after"]) <= 12
    # The other key of the organisation is refused alike, a key of another one is not.
    assert (await _refusal(client.with_options(api_key=sandbox.keys("groq")[1]))).status_code == 429
    await _ask(client.with_options(api_key=sandbox.keys("groq")[2]))
    await _ask(client, model="openai/gpt-oss-120b")


async def test_tokens_run_short_by_what_is_requested(client: groq.AsyncGroq) -> None:
    for _ in range(2):
        await _ask(client, messages=[{"role": "user", "content": "x" * 3_600}])
    refused = await _refusal(client, max_completion_tokens=500)
    body: Any = refused.body
    assert "tokens per minute (TPM): Limit 2000, Used " in body["error"]["message"]
    assert "Requested 504" in body["error"]["message"]
    assert body["error"]["type"] == "tokens"


async def test_prompts_answers_and_service_tiers_have_limits_of_their_own(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("limits", service="groq", itpm=100, otpm=50)
    too_large: Any = await _refusal(client, max_completion_tokens=51)
    assert (too_large.status_code, too_large.body["error"].get("code")) == (400, None)
    assert (
        "on output tokens per minute (OTPM): Limit 50, Requested 51"
        in too_large.body["error"]["message"]
    )
    long = [{"role": "user", "content": "x" * 240}]
    await _ask(client, messages=long, max_completion_tokens=2)
    refused: Any = await _refusal(client, messages=long, max_completion_tokens=2)
    assert (
        "`on_demand` on input tokens per minute (ITPM): Limit 100, Used "
        in refused.body["error"]["message"]
    )
    await _ask(client, messages=long, max_completion_tokens=2, service_tier="flex")


async def test_a_request_above_the_limit_itself_is_too_large(client: groq.AsyncGroq) -> None:
    refused = await _refusal(client, max_completion_tokens=5_000)
    body: Any = refused.body
    assert (refused.status_code, body["error"]["code"]) == (413, "rate_limit_exceeded")
    assert "Request too large" in body["error"]["message"]
    assert "Limit 2000, Requested 5004" in body["error"]["message"]
    assert "retry-after" not in refused.response.headers


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "invalid_api_key"}, 401, "invalid_api_key"),
        ({"kind": "organization_restricted"}, 400, "organization_restricted"),
        ({"kind": "organization_restricted", "status": 403}, 403, "organization_restricted"),
        ({"kind": "blocked_api_access"}, 400, "blocked_api_access"),
        ({"kind": "spend_limit_reached"}, 400, "spend_limit_reached"),
        ({"kind": "model_permission_blocked_project"}, 403, "model_permission_blocked_project"),
        ({"kind": "model_permission_blocked_org"}, 403, "model_permission_blocked_org"),
        ({"kind": "forbidden"}, 403, None),  # no code: the edge, not the key
        ({"kind": "model_not_found"}, 404, "model_not_found"),
        ({"kind": "model_decommissioned"}, 400, "model_decommissioned"),
        ({"kind": "context_length_exceeded"}, 400, "context_length_exceeded"),
        ({"status": 422}, 422, None),
        ({"kind": "json_validate_failed"}, 400, "json_validate_failed"),
        ({"kind": "tool_use_failed"}, 400, "tool_use_failed"),
        ({"kind": "too_large"}, 413, "rate_limit_exceeded"),
        (
            {"kind": "too_large", "status": 429},
            429,
            "rate_limit_exceeded",
        ),  # the same thing under another status
        ({"status": 424}, 424, None),
        ({"kind": "capacity_exceeded"}, 498, "capacity_exceeded"),
        ({"status": 500}, 500, None),
        ({"status": 502}, 502, None),
        ({"status": 503}, 503, None),
        ({"status": 504}, 504, None),
    ],
)
async def test_every_refusal_can_be_provoked(
    sandbox: Sandbox, client: groq.AsyncGroq, fault: dict[str, Any], status: int, code: str | None
) -> None:
    sandbox.control("fault", service="groq", count=1, **fault)
    refused = await _refusal(client)
    body: Any = refused.body
    assert (refused.status_code, body["error"].get("code")) == (status, code)
    await _ask(client)


async def test_a_bad_generation_echoes_the_users_text(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("fault", service="groq", kind="json_validate_failed", count=1)
    body: Any = (await _refusal(client)).body
    assert body["error"]["failed_generation"] == "hello in json"


async def test_a_refusal_may_tell_a_wait_or_nothing(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("fault", service="groq", kind="rate_limit", retry_after_s=7, count=1)
    assert (await _refusal(client)).response.headers["retry-after"] == "7"
    sandbox.control("fault", service="groq", kind="rate_limit_silent", count=1)
    silent = await _refusal(client)
    assert (silent.status_code, silent.body) == (429, {})
    assert "retry-after" not in silent.response.headers


@pytest.mark.parametrize(("kind", "status"), [("edge_blocked", 403), ("gateway_page", 502)])
async def test_an_edge_answers_with_a_page(
    sandbox: Sandbox, client: groq.AsyncGroq, kind: str, status: int
) -> None:
    sandbox.control("fault", service="groq", kind=kind, count=1)
    refused = await _refusal(client)
    assert refused.status_code == status
    assert refused.response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("fault", "raised", "cause", "accepted"),
    [
        ({"kind": "reset_before"}, groq.APIConnectionError, httpx.ReadError, 0),
        ({"kind": "reset_after"}, groq.APIConnectionError, httpx.ReadError, 1),
        ({"kind": "truncated"}, groq.APIConnectionError, httpx.RemoteProtocolError, 1),
        ({"kind": "broken_json"}, json.JSONDecodeError, None, 1),
        ({"kind": "error_after", "status": 503}, groq.InternalServerError, None, 1),
        ({"kind": "hang", "hang_s": 30}, groq.APITimeoutError, httpx.ReadTimeout, 1),
        ({"kind": "hang_before", "hang_s": 30}, groq.APITimeoutError, httpx.ReadTimeout, 0),
    ],
)
async def test_an_answer_gets_lost_before_or_after_the_work(
    *,
    sandbox: Sandbox,
    client: groq.AsyncGroq,
    fault: dict[str, Any],
    raised: type[Exception],
    cause: type[Exception] | None,
    accepted: int,
) -> None:
    sandbox.control("fault", service="groq", count=1, **fault)
    with pytest.raises(raised) as lost:
        await _ask(client, timeout=0.3 if fault["kind"].startswith("hang") else 5.0)
    if cause is not None:
        assert isinstance(lost.value.__cause__, cause)
    assert sandbox.ledger()["services"]["groq"]["accepted"] == accepted
    assert sandbox.ledger()["judgement"]["accepted_but_answer_lost"] == accepted


async def test_a_page_with_status_200_comes_out_of_the_sdk_as_text(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("fault", service="groq", kind="html_ok", count=1)
    assert isinstance(await _ask(client), str)


async def test_keys_organisations_and_models_can_be_taken_away(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("revoke", key="groq:1")
    assert (await _refusal(client)).status_code == 401
    with pytest.raises(groq.AuthenticationError):
        await client.models.list()
    sandbox.control("restore", key="groq:1")
    sandbox.control(
        "standing", service="groq", model=_MODEL, code="model_permission_blocked_project"
    )
    assert (await _refusal(client)).status_code == 403
    sandbox.control("standing", service="groq", standing="organization_restricted")
    body: Any = (await _refusal(client)).body
    assert body["error"]["code"] == "organization_restricted"
    assert (await _refusal(client.with_options(api_key="gsk_nobody"))).status_code == 401
    assert (await _refusal(client, model="no-such-model")).status_code == 400
    sandbox.control("standing", service="groq", standing="live")
    missing: Any = (await _refusal(client, model="no-such-model")).body
    assert missing["error"]["code"] == "model_not_found"
    assert "`no-such-model`" in missing["error"]["message"]


async def test_malformed_requests_are_refused(sandbox: Sandbox, client: groq.AsyncGroq) -> None:
    assert (await _refusal(client, messages=[])).status_code == 400
    assert (await _refusal(client, temperature=3)).status_code == 400
    headers = {"Authorization": f"Bearer {sandbox.keys('groq')[0]}"}
    async with httpx.AsyncClient(base_url=sandbox.groq_base_url, headers=headers) as plain:
        assert (await plain.post("/openai/v1/chat/completions", content="{")).status_code == 400
        assert (await plain.post("/openai/v1/chat/completions", content="[]")).status_code == 400
        assert (await plain.get("/openai/v1/nothing")).json()["error"]["code"] == "unknown_url"


async def test_a_model_that_reasons_says_so_and_may_use_its_whole_cap_for_it(
    client: groq.AsyncGroq,
) -> None:
    answer = await _ask(client)
    assert answer.choices[0].message.reasoning
    assert answer.usage.completion_tokens_details.reasoning_tokens == 8  # of the 24
    assert (
        await _ask(client, reasoning_effort="high")
    ).usage.completion_tokens_details.reasoning_tokens == 16
    cut = await _ask(client, max_completion_tokens=8)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("", "length")
    assert cut.usage.completion_tokens == cut.usage.completion_tokens_details.reasoning_tokens == 8
    hidden = await _ask(client, include_reasoning=False)
    assert hidden.choices[0].message.reasoning is None
    assert hidden.usage.completion_tokens_details.reasoning_tokens == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"reasoning_effort": "none"},  # these models cannot leave it
        {"reasoning_format": "raw"},
        {"reasoning_format": "parsed", "include_reasoning": True},
    ],
)
async def test_what_a_model_that_reasons_does_not_take_is_refused(
    client: groq.AsyncGroq, changes: dict[str, Any]
) -> None:
    assert (await _refusal(client, **changes)).status_code == 400


async def test_models_that_were_switched_off_are_refused_unless_the_organisation_keeps_them() -> (
    None
):
    kept = {"keys": ["gsk_keeps"], "models": {"llama-3.3-70b-versatile": {}}}
    with Sandbox(
        accounts={"living": [_MODEL, "new"], "groq": [kept, {"keys": ["gsk_other"]}]}
    ) as sandbox:
        async with groq.AsyncGroq(
            api_key="gsk_keeps", base_url=sandbox.groq_base_url, max_retries=0
        ) as keeps:
            other = keeps.with_options(api_key="gsk_other")
            await _ask(keeps, model="llama-3.3-70b-versatile")
            await _ask(other, model="new")
            gone: Any = await _refusal(other, model="llama-3.3-70b-versatile")
            assert (gone.status_code, gone.body["error"]["code"]) == (404, "model_not_found")
            ended: Any = await _refusal(other, model="mixtral-8x7b-32768")
            assert (ended.status_code, ended.body["error"]["code"]) == (400, "model_decommissioned")
            assert [model.id for model in (await other.models.list()).data] == [_MODEL, "new"]
            assert [model.id for model in (await keeps.models.list()).data][
                -1
            ] == "llama-3.3-70b-versatile"


async def test_all_models_are_listed(client: groq.AsyncGroq) -> None:
    assert _MODEL in [model.id for model in (await client.models.list()).data]


async def test_tools_and_json_are_answered_where_they_are_demanded(client: groq.AsyncGroq) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    choice = (await _ask(client, tools=tools, tool_choice="required")).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "sandbox"}
    choice = (await _ask(client, response_format={"type": "json_object"})).choices[0]
    assert json.loads(choice.message.content) == {"answer": "sandbox"}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": parameters}}
    choice = (await _ask(client, response_format=wanted)).choices[0]
    assert json.loads(choice.message.content) == {"city": "sandbox"}


async def test_a_stream_ends_with_the_usage(client: groq.AsyncGroq) -> None:
    chunks = [chunk async for chunk in await _ask(client, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Sandbox ")
    assert chunks[0].x_groq.id == chunks[-1].x_groq.id
    assert chunks[-1].x_groq.usage.completion_tokens == chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].choices[0].finish_reason == "stop"
    tools = [{"type": "function", "function": {"name": "weather"}}]
    chunks = [
        chunk
        async for chunk in await _ask(client, stream=True, tools=tools, tool_choice="required")
    ]
    assert chunks[1].choices[0].delta.reasoning
    assert chunks[2].choices[0].delta.tool_calls[0].function.name == "weather"


async def test_a_stream_may_take_its_time() -> None:
    with Sandbox(groq_stream_ms=20) as sandbox:
        async with groq.AsyncGroq(
            api_key=sandbox.keys("groq")[0], base_url=sandbox.groq_base_url, max_retries=0
        ) as client:
            began = time.monotonic()
            chunks = [chunk async for chunk in await _ask(client, stream=True)]
            assert time.monotonic() - began > 0.02 * len(chunks)


async def test_a_stream_can_end_early_or_break(sandbox: Sandbox, client: groq.AsyncGroq) -> None:
    sandbox.control("fault", service="groq", kind="stream_error", count=1)
    chunks = [chunk async for chunk in await _ask(client, stream=True)]
    assert chunks[-1].x_groq.error
    sandbox.control("fault", service="groq", kind="stream_cut", count=1)
    with pytest.raises((httpx.RemoteProtocolError, groq.APIConnectionError)):
        async for _ in await _ask(client, stream=True):
            pass
    sandbox.control("fault", service="groq", kind="stream_hang", count=1)
    with pytest.raises((httpx.ReadTimeout, groq.APIConnectionError)):
        async for _ in await _ask(client.with_options(timeout=0.5), stream=True):
            pass


async def test_an_exhausted_service_refuses_every_key_and_the_ledger_sees_who_does_not_wait(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("exhaust", service="groq", seconds=20)
    for key in sandbox.keys("groq"):
        refused = await _refusal(client.with_options(api_key=key))
        assert 18 <= int(refused.response.headers["retry-after"]) <= 20
    assert sandbox.ledger()["judgement"]["calls_while_cooling"] == 0
    sandbox.control("advance", seconds=6)
    await _refusal(client)
    ledger = sandbox.ledger(full=True)
    assert ledger["judgement"]["calls_while_cooling"] == 1
    assert ledger["violations"][0]["label"] == sandbox.keys("groq")[0][:10] + "..."
    assert [call["status"] for call in ledger["calls"]] == [429] * 4
    sandbox.control("advance", seconds=20)
    await _ask(client)
    assert sandbox.ledger()["judgement"]["calls_while_cooling"] == 1


async def test_a_refusal_of_one_size_leaves_no_dust_that_refuses_a_client_that_waited(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("limits", service="groq", rpm=600)
    answers = await asyncio.gather(
        *(_ask(client, max_tokens=2) for _ in range(80)), return_exceptions=True
    )
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
