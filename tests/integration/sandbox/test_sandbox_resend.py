"""The simulated Resend, called with the real SDK."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import resend
from resend.exceptions import ResendError
from resend.http_client_async import AsyncHTTPClient

from sandbox.process import Sandbox
from tests.tls import TRUSTS_NOBODY


class _Shared(AsyncHTTPClient):
    """One HTTP client for all calls of the SDK, which itself makes a new one for each call."""

    timeout_s = 30.0

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def request(self, method: str, url: str, headers: Any, json: Any = None, **_: Any) -> Any:
        response = await self._client.request(
            method, url, headers=dict(headers), json=json, timeout=self.timeout_s
        )
        return response.content, response.status_code, response.headers


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(resend_keys=3, resend_keys_per_team=2, resend_rps=4, resend_daily=100) as running:
        yield running


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.control("reset")
    running.control("limits", service="resend", rps=1_000, daily=100, monthly=3_000)
    return running


@pytest.fixture
async def _sdk(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with httpx.AsyncClient(verify=TRUSTS_NOBODY) as client:
        monkeypatch.setattr(resend, "default_async_http_client", _Shared(client))
        monkeypatch.setattr(resend, "api_url", sandbox.resend_api_url)
        monkeypatch.setattr(resend, "api_key", sandbox.keys("resend")[0])
        yield


pytestmark = pytest.mark.usefixtures("_sdk")


def _mail(sandbox: Sandbox, **changes: Any) -> Any:
    sender = sandbox.env()["RESEND_FROM"]
    return {
        "from": sender,
        "to": ["you@b.example.net"],
        "subject": "Hi",
        "html": "<p>x</p>",
    } | changes


async def _send(sandbox: Sandbox, key: str = "", **changes: Any) -> Any:
    options: Any = {"idempotency_key": key} if key else None
    return await resend.Emails.send_async(_mail(sandbox, **changes), options)


async def _refusal(sandbox: Sandbox, key: str = "", **changes: Any) -> ResendError:
    with pytest.raises(ResendError) as refused:
        await _send(sandbox, key, **changes)
    return refused.value


async def test_an_email_is_taken_with_the_documented_headers_and_can_be_read(
    sandbox: Sandbox,
) -> None:
    sandbox.control("limits", service="resend", rps=4)
    sent = await _send(sandbox, cc=["c@b.example.net"])
    headers = sent["http_headers"]
    assert (headers["ratelimit-limit"], headers["ratelimit-remaining"]) == ("4", "3")
    assert (headers["ratelimit-policy"], headers["ratelimit-reset"]) == ("4;w=1", "1")
    assert (
        headers["x-resend-daily-quota"] == headers["x-resend-monthly-quota"] == "2"
    )  # the use, by recipient
    email = await resend.Emails.get_async(sent["id"])
    assert email["subject"] == "Hi"


async def test_an_email_to_a_suppressed_address_is_taken_and_not_delivered(
    sandbox: Sandbox,
) -> None:
    sent = await _send(sandbox, to="suppressed@resend.dev")
    assert (await resend.Emails.get_async(sent["id"]))["last_event"] == "suppressed"


async def test_the_rate_limit_of_a_team_holds_for_all_its_keys_together(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.control("limits", service="resend", rps=1)
    answers = await asyncio.gather(
        *(_send(sandbox, f"rate-{n}") for n in range(5)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, ResendError)]
    assert refused
    assert {(error.code, error.error_type) for error in refused} == {(429, "rate_limit_exceeded")}
    assert {error.headers["retry-after"] for error in refused} == {"1"}
    assert sandbox.ledger()["services"]["resend"]["accepted"] == 5 - len(refused)
    monkeypatch.setattr(resend, "api_key", sandbox.keys("resend")[2])
    await _send(sandbox, **{"from": sandbox.env()["RESEND_FROM_3"]})


async def test_quotas_count_recipients_and_end_with_the_day_and_the_month(sandbox: Sandbox) -> None:
    sandbox.control("limits", service="resend", daily=3, monthly=4)
    await _send(sandbox, to=["a@b.example.net", "b@b.example.net"])
    assert (
        await _refusal(sandbox, to=["c@b.example.net"] * 2)
    ).error_type == "daily_quota_exceeded"
    usage: Any = await resend.Usage.get_async()
    assert (usage["emails"]["daily"]["used"], usage["emails"]["daily"]["limit"]) == (2, 3)
    sandbox.control("limits", service="resend", daily=0)
    error = await _refusal(sandbox, to=["c@b.example.net"] * 3)
    assert (error.code, error.error_type) == (429, "monthly_quota_exceeded")
    assert usage["emails"]["monthly"]["resets_at"].endswith("-01T00:00:00.000Z")


async def test_an_idempotency_key_replays_the_first_answer_for_a_day(sandbox: Sandbox) -> None:
    first = await _send(sandbox, "job-1")
    assert (await _send(sandbox, "job-1"))["id"] == first["id"]
    error = await _refusal(sandbox, "job-1", subject="Other")
    assert (error.code, error.error_type) == (409, "invalid_idempotent_request")
    ledger = sandbox.ledger(full=True)
    assert ledger["judgement"]["emails_accepted"] == 1
    assert [call["code"] for call in ledger["calls"]] == [
        "ok",
        "replayed",
        "invalid_idempotent_request",
    ]
    sandbox.control("advance", seconds=86_400)
    assert (await _send(sandbox, "job-1"))["id"] != first["id"]
    assert sandbox.ledger()["judgement"]["emails_accepted_twice"] == 1
    assert (await _refusal(sandbox, "x" * 257)).error_type == "invalid_idempotency_key"


async def test_another_team_knows_nothing_of_an_idempotency_key(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _send(sandbox, "job-1")
    monkeypatch.setattr(resend, "api_key", sandbox.keys("resend")[1])
    await _send(sandbox, "job-1")
    assert sandbox.ledger()["judgement"]["emails_accepted_twice"] == 0
    monkeypatch.setattr(resend, "api_key", sandbox.keys("resend")[2])
    await _send(sandbox, "job-1", **{"from": sandbox.env()["RESEND_FROM_3"]})
    assert sandbox.ledger()["judgement"]["emails_accepted_twice"] == 1


async def test_a_domain_belongs_to_one_team(sandbox: Sandbox) -> None:
    error = await _refusal(sandbox, **{"from": sandbox.env()["RESEND_FROM_3"]})
    assert (error.code, error.error_type) == (403, "validation_error")
    assert "domain is not verified" in error.message
    assert (await _refusal(sandbox, **{"from": "onboarding@resend.dev"})).code == 403


@pytest.mark.parametrize(
    ("revoked", "code", "name"),
    [
        ({"form": 400}, 400, "validation_error"),
        ({"form": 401}, 401, "validation_error"),
        ({"form": 403}, 403, "invalid_api_key"),
        ({"standing": "suspended"}, 403, "suspended_api_key"),
    ],
)
async def test_a_dead_key_is_refused_in_the_forms_that_were_seen(
    sandbox: Sandbox, revoked: dict[str, Any], code: int, name: str
) -> None:
    sandbox.control("revoke", key="resend:1", **revoked)
    error = await _refusal(sandbox)
    assert (error.code, error.error_type) == (code, name), error
    sandbox.control("advance", seconds=1)
    await _refusal(sandbox)
    assert sandbox.ledger()["judgement"]["calls_after_refusal"] == 1
    sandbox.control("restore", key="resend:1")
    await _send(sandbox)
    assert sandbox.ledger()["judgement"]["calls_after_refusal"] == 1


async def test_a_restricted_key_may_send_and_nothing_else(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.control("revoke", key="resend:1", standing="restricted")
    sent = await _send(sandbox)
    with pytest.raises(ResendError) as refused:
        await resend.Emails.get_async(sent["id"])
    assert (refused.value.code, refused.value.error_type) == (401, "restricted_api_key")
    monkeypatch.setattr(resend, "api_key", "re_nobody")
    assert (await _refusal(sandbox)).code == 401
    monkeypatch.setattr(resend, "api_key", "")
    assert (await _refusal(sandbox)).error_type in {"missing_api_key", "HttpClientError"}


@pytest.mark.parametrize(
    ("fault", "code", "name"),
    [
        ({"kind": "missing_api_key"}, 401, "missing_api_key"),
        ({"kind": "invalid_api_key_400"}, 400, "validation_error"),
        ({"kind": "domain_not_verified"}, 403, "validation_error"),
        ({"status": 400}, 400, "validation_error"),
        ({"status": 404}, 404, "not_found"),
        ({"status": 405}, 405, "method_not_allowed"),
        ({"kind": "concurrent_idempotent_requests"}, 409, "concurrent_idempotent_requests"),
        ({"kind": "resource_locked"}, 409, "resource_locked"),
        ({"status": 413}, 413, "payload_too_large"),
        ({"kind": "missing_required_field"}, 422, "missing_required_field"),
        ({"kind": "invalid_attachment"}, 422, "invalid_attachment"),
        ({"kind": "invalid_parameter"}, 422, "invalid_parameter"),
        ({"kind": "rate_limit_exceeded", "retry_after_s": 3}, 429, "rate_limit_exceeded"),
        ({"status": 429, "retry_after_s": 3}, 429, "rate_limit_exceeded"),
        ({"kind": "rate_limit_silent"}, 429, "rate_limit_exceeded"),
        ({"status": 503, "retry_after_s": 3}, 503, "service_unavailable"),
        ({"kind": "daily_quota_exceeded", "retry_after_s": 3}, 429, "daily_quota_exceeded"),
        ({"kind": "gateway_page", "status": 503, "retry_after_s": 3}, 503, "application_error"),
        ({"kind": "daily_quota_exceeded"}, 429, "daily_quota_exceeded"),
        ({"kind": "monthly_quota_exceeded"}, 429, "monthly_quota_exceeded"),
        ({"kind": "security_error"}, 451, "security_error"),
        ({"status": 500}, 500, "application_error"),
        ({"kind": "internal_server_error"}, 500, "internal_server_error"),
        ({"status": 502}, 502, "application_error"),
        ({"status": 503}, 503, "service_unavailable"),
        ({"status": 504}, 504, "application_error"),
        ({"kind": "gateway_page", "status": 502}, 502, "application_error"),
    ],
)
async def test_every_refusal_can_be_provoked(
    sandbox: Sandbox, fault: dict[str, Any], code: int, name: str
) -> None:
    sandbox.control("fault", service="resend", count=1, **fault)
    error = await _refusal(sandbox)
    assert (error.code, error.error_type) == (code, name), error
    assert sandbox.ledger()["judgement"]["emails_accepted"] == 0
    assert error.headers.get("retry-after") == ("3" if "retry_after_s" in fault else None)


@pytest.mark.parametrize(
    ("fault", "code", "accepted"),
    [
        ({"kind": "reset_before"}, 500, 0),
        ({"kind": "reset_after"}, 500, 1),
        ({"kind": "truncated"}, 500, 1),
        ({"kind": "html_ok"}, 500, 1),
        ({"kind": "broken_json"}, 500, 1),
        ({"status": 503, "accept": True}, 503, 1),
        ({"kind": "hang", "hang_s": 30}, 500, 1),
        ({"kind": "hang_before", "hang_s": 30}, 500, 0),
    ],
)
async def test_a_second_try_with_the_same_key_after_a_lost_answer_sends_no_second_email(
    sandbox: Sandbox,
    fault: dict[str, Any],
    code: int,
    accepted: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sandbox.control("fault", service="resend", count=1, **fault)
    with monkeypatch.context() as patch:
        if "hang_s" in fault:
            patch.setattr(_Shared, "timeout_s", 2.0)
        assert (await _refusal(sandbox, "job-1")).code == code
    judgement = sandbox.ledger()["judgement"]
    assert (judgement["emails_accepted"], judgement["accepted_but_answer_lost"]) == (
        accepted,
        accepted,
    )
    await _send(sandbox, "job-1")
    judgement = sandbox.ledger()["judgement"]
    assert (judgement["emails_accepted"], judgement["emails_accepted_twice"]) == (1, 0)


async def test_malformed_emails_are_refused(sandbox: Sandbox) -> None:
    many = [f"u{number}@b.example.net" for number in range(51)]
    assert (await _refusal(sandbox, to=many)).code == 422
    assert (await _refusal(sandbox, subject="")).error_type == "missing_required_field"
    headers = {"Authorization": f"Bearer {sandbox.keys('resend')[0]}"}
    async with httpx.AsyncClient(base_url=sandbox.resend_api_url, headers=headers) as plain:
        assert (await plain.post("/emails", content="{")).status_code == 400
        assert (await plain.delete("/emails")).status_code == 405
        assert (await plain.get("/elsewhere")).json()["name"] == "not_found"
        assert (await plain.get("/emails/nonsense")).json()["name"] == "invalid_parameter"
        stranger = await plain.get("/emails/4ef9a417-02e9-4d39-ad75-9611e0fcc33c")
        assert stranger.status_code == 404
        assert (await plain.get("/usage", headers={"Authorization": ""})).json()[
            "name"
        ] == "missing_api_key"


async def test_a_batch_is_strict_unless_it_asks_for_less(sandbox: Sandbox) -> None:
    good, bad = _mail(sandbox), _mail(sandbox, to=["nobody"])
    sent: Any = await resend.Batch.send_async([good, good], {"idempotency_key": "batch-1"})
    again: Any = await resend.Batch.send_async([good, good], {"idempotency_key": "batch-1"})
    assert sent["data"] == again["data"]
    assert len(sent["data"]) == 2
    with pytest.raises(ResendError) as refused:
        await resend.Batch.send_async([good, bad])
    assert refused.value.code == 422
    partly: Any = await resend.Batch.send_async([good, bad], {"batch_validation": "permissive"})
    assert len(partly["data"]) == 1
    assert partly["errors"][0]["index"] == 1
    assert sandbox.ledger()["judgement"]["emails_accepted"] == 3


async def test_an_empty_batch_is_refused_and_counts_nowhere(sandbox: Sandbox) -> None:
    sandbox.control("fault", service="resend", status=500, count=1)
    with pytest.raises(ResendError) as refused:
        await resend.Batch.send_async([])
    assert refused.value.error_type == "validation_error"
    assert sandbox.ledger(full=True)["calls"] == []


async def test_a_twin_of_an_unfinished_request_is_refused() -> None:
    with Sandbox(
        resend_keys=1, resend_rps=100, resend_latency_ms=700, resend_jitter_ms=10, seed=1
    ) as slow:
        resend.api_url, resend.api_key = slow.resend_api_url, slow.keys("resend")[0]
        answers = await asyncio.gather(
            *(_send(slow, "job-1") for _ in range(3)), return_exceptions=True
        )
        refused = [answer.error_type for answer in answers if isinstance(answer, ResendError)]
        assert refused == ["concurrent_idempotent_requests"] * 2
        assert slow.ledger()["judgement"]["emails_accepted"] == 1


async def test_an_exhausted_team_says_how_long(sandbox: Sandbox) -> None:
    sandbox.control("exhaust", service="resend", seconds=9)
    error = await _refusal(sandbox)
    assert (error.code, error.headers["retry-after"]) == (429, "9")
