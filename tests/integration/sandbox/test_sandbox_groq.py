"""The simulated Groq, called with the real SDK."""

import asyncio
import json
import re
from typing import Any

import groq
import httpx
import pytest

from sandbox.process import Sandbox
from tests.integration.sandbox.groq_calls import MESSAGES, MODEL, ask, refusal
from tests.processes import eventually


async def test_a_completion_has_text_usage_and_the_documented_headers(
    client: groq.AsyncGroq,
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, max_tokens=100
    )
    completion = await raw.parse()
    assert completion.choices[0].message.content.startswith("Sandbox ")
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 24)
    assert completion.x_groq.id == raw.headers["x-request-id"]
    assert raw.headers["x-ratelimit-limit-requests"] == "14400"  # the limit of a day
    assert raw.headers["x-ratelimit-remaining-requests"] == "14399"
    assert raw.headers["x-ratelimit-limit-tokens"] == "2000"  # the limit of a minute
    assert (
        1_896 <= int(raw.headers["x-ratelimit-remaining-tokens"]) < 1_972
    )  # the requested tokens are reserved
    for name in ("requests", "tokens"):
        assert re.fullmatch(r"\d(\.\d{1,3})?s", raw.headers[f"x-ratelimit-reset-{name}"])
    assert "retry-after" not in raw.headers


async def test_an_answer_is_cut_at_the_bound(client: groq.AsyncGroq) -> None:
    completion = await ask(client, max_completion_tokens=5)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 5


async def test_tokens_that_were_reserved_and_not_used_are_given_back(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    await ask(client, max_completion_tokens=1_900)
    await ask(client, max_completion_tokens=1_900)
    assert sandbox.ledger()["services"]["groq"]["tokens"] == 56


async def test_a_refusal_has_the_recorded_words_with_organisation_limit_and_wait(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    for _ in range(5):
        await ask(client)
    refused = await refusal(client)
    assert isinstance(refused, groq.RateLimitError)
    organisation = sandbox.state()["groq"][0]["account"]
    body: Any = refused.body
    assert body["error"]["code"] == "rate_limit_exceeded"
    assert body["error"]["type"] == "requests"
    match = re.match(
        rf"Rate limit reached for model `{MODEL}` in organization `{organisation}` "
        r"service tier `on_demand` on "
        r"requests per minute \(RPM\): Limit 5, Used 5, Requested 1\. "
        r"Please try again in (\d+(?:\.\d+)?)s\. ",
        body["error"]["message"],
    )
    assert match
    assert 1 < float(match.group(1)) <= int(refused.response.headers["retry-after"]) <= 12
    # The organisation's other key is refused, too; a key of another organisation is not.
    assert (await refusal(client.with_options(api_key=sandbox.keys("groq")[1]))).status_code == 429
    await ask(client.with_options(api_key=sandbox.keys("groq")[2]))
    await ask(client, model="openai/gpt-oss-120b")


async def test_tokens_run_short_by_what_is_requested(client: groq.AsyncGroq) -> None:
    for _ in range(2):
        await ask(client, messages=[{"role": "user", "content": "x" * 3_600}])
    refused = await refusal(client, max_completion_tokens=500)
    body: Any = refused.body
    assert "tokens per minute (TPM): Limit 2000, Used " in body["error"]["message"]
    assert "Requested 504" in body["error"]["message"]
    assert body["error"]["type"] == "tokens"


async def test_prompts_answers_and_service_tiers_have_limits_of_their_own(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("limits", service="groq", itpm=100, otpm=50)
    too_large: Any = await refusal(client, max_completion_tokens=51)
    assert (too_large.status_code, too_large.body["error"].get("code")) == (400, None)
    assert (
        "on output tokens per minute (OTPM): Limit 50, Requested 51"
        in too_large.body["error"]["message"]
    )
    long = [{"role": "user", "content": "x" * 240}]
    await ask(client, messages=long, max_completion_tokens=2)
    refused: Any = await refusal(client, messages=long, max_completion_tokens=2)
    assert (
        "`on_demand` on input tokens per minute (ITPM): Limit 100, Used "
        in refused.body["error"]["message"]
    )
    await ask(client, messages=long, max_completion_tokens=2, service_tier="flex")


async def test_a_request_above_the_limit_itself_is_too_large(client: groq.AsyncGroq) -> None:
    refused = await refusal(client, max_completion_tokens=5_000)
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
        ({"kind": "forbidden"}, 403, None),  # no code: the edge refuses, not the key
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
        ),  # the same error with another status
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
    refused = await refusal(client)
    body: Any = refused.body
    assert (refused.status_code, body["error"].get("code")) == (status, code)
    await ask(client)


async def test_a_bad_generation_echoes_the_users_text(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("fault", service="groq", kind="json_validate_failed", count=1)
    body: Any = (await refusal(client)).body
    assert body["error"]["failed_generation"] == "hello in json"


async def test_a_refusal_may_ask_for_a_wait_or_for_none(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("fault", service="groq", kind="rate_limit", retry_after_s=7, count=1)
    assert (await refusal(client)).response.headers["retry-after"] == "7"
    sandbox.control("fault", service="groq", kind="rate_limit_silent", count=1)
    silent = await refusal(client)
    assert (silent.status_code, silent.body) == (429, {})
    assert "retry-after" not in silent.response.headers
    faults: list[dict[str, Any]] = [{"status": 429}, {"status": 503}, {"kind": "edge_blocked"}]
    for fault in faults:
        sandbox.control("fault", service="groq", **fault, retry_after_s=6.5, count=1)
        assert (await refusal(client)).response.headers["retry-after"] == "7", fault


@pytest.mark.parametrize(("kind", "status"), [("edge_blocked", 403), ("gateway_page", 502)])
async def test_an_edge_answers_with_a_page(
    sandbox: Sandbox, client: groq.AsyncGroq, kind: str, status: int
) -> None:
    sandbox.control("fault", service="groq", kind=kind, count=1)
    refused = await refusal(client)
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
        await ask(client, timeout=httpx.Timeout(5.0, read=0.3) if "hang_s" in fault else 5.0)
    if cause is not None:
        assert isinstance(lost.value.__cause__, cause)
    # In case the call took longer than 0.3 s.
    eventually(lambda: sandbox.ledger()["services"]["groq"]["calls"])
    ledger = sandbox.ledger(full=True)
    assert ledger["services"]["groq"]["accepted"] == accepted
    assert ledger["judgement"]["accepted_but_answer_lost"] == accepted
    [call] = ledger["calls"]
    assert (call["accepted"], call["delivered"]) == (bool(accepted), False)


async def test_a_page_with_status_200_comes_out_of_the_sdk_as_text(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("fault", service="groq", kind="html_ok", count=1)
    assert isinstance(await ask(client), str)


async def test_keys_organisations_and_models_can_be_taken_away(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("revoke", key="groq:1")
    assert (await refusal(client)).status_code == 401
    with pytest.raises(groq.AuthenticationError):
        await client.models.list()
    sandbox.control("restore", key="groq:1")
    sandbox.control(
        "standing", service="groq", model=MODEL, code="model_permission_blocked_project"
    )
    assert (await refusal(client)).status_code == 403
    sandbox.control("standing", service="groq", standing="organization_restricted")
    body: Any = (await refusal(client)).body
    assert body["error"]["code"] == "organization_restricted"
    assert (await refusal(client.with_options(api_key="gsk_nobody"))).status_code == 401
    assert (await refusal(client, model="no-such-model")).status_code == 400
    sandbox.control("standing", service="groq", standing="live")
    missing: Any = (await refusal(client, model="no-such-model")).body
    assert missing["error"]["code"] == "model_not_found"
    assert "`no-such-model`" in missing["error"]["message"]


async def test_malformed_requests_are_refused(sandbox: Sandbox, client: groq.AsyncGroq) -> None:
    assert (await refusal(client, messages=[])).status_code == 400
    assert (await refusal(client, temperature=3)).status_code == 400
    headers = {"Authorization": f"Bearer {sandbox.keys('groq')[0]}"}
    async with httpx.AsyncClient(base_url=sandbox.groq_base_url, headers=headers) as plain:
        assert (await plain.post("/openai/v1/chat/completions", content="{")).status_code == 400
        assert (await plain.post("/openai/v1/chat/completions", content="[]")).status_code == 400
        assert (await plain.get("/openai/v1/nothing")).json()["error"]["code"] == "unknown_url"


async def test_an_exhausted_service_refuses_every_key_and_the_ledger_counts_calls_that_did_not_wait(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("exhaust", service="groq", seconds=20)
    for key in sandbox.keys("groq"):
        refused = await refusal(client.with_options(api_key=key))
        assert 18 <= int(refused.response.headers["retry-after"]) <= 20
    assert sandbox.ledger()["judgement"]["calls_while_cooling"] == 0
    sandbox.control("advance", seconds=6)
    await refusal(client)
    ledger = sandbox.ledger(full=True)
    assert ledger["judgement"]["calls_while_cooling"] == 1
    assert ledger["violations"][0]["label"] == sandbox.keys("groq")[0][:10] + "..."
    assert [call["status"] for call in ledger["calls"]] == [429] * 4
    sandbox.control("advance", seconds=20)
    await ask(client)
    assert sandbox.ledger()["judgement"]["calls_while_cooling"] == 1


async def test_a_refusal_of_one_size_leaves_no_dust_that_refuses_a_client_that_waited(
    sandbox: Sandbox, client: groq.AsyncGroq
) -> None:
    sandbox.control("limits", service="groq", rpm=600)
    answers = await asyncio.gather(
        *(ask(client, max_tokens=2) for _ in range(80)), return_exceptions=True
    )
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
