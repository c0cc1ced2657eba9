"""Recorded answers get their own verdicts; unknown ones are recorded without secrets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import groq_errors, resend_errors
from tests.integration.providers.groq_request import KEY as GROQ_KEY
from tests.integration.providers.groq_request import PROMPT, REQUEST
from tests.integration.providers.resend_mail import KEY as RESEND_KEY
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Groq, Resend, SendRequest
from worker.providers.groq import unknowns
from worker.providers.unknowns import Kind, Unknown
from worker.verdicts import Fate, Verdict

_RECORDED = json.loads((Path(__file__).parent / "recorded_answers.json").read_text())
_MAIL = SendRequest.single(
    {"from": "a@shop.example", "to": ["ann@example.org"], "subject": "x", "text": PROMPT}, "job-1"
)


class WatchedProviders:
    """Both providers' clients with a scripted provider, and the unknowns that they recorded."""

    def __init__(self, scripted: ScriptedApi) -> None:
        self.scripted = scripted
        self.noticed: list[Unknown] = []
        self.groq = Groq(scripted.url, notice=self.noticed.append)
        self.resend = Resend(scripted.url, notice=self.noticed.append)

    async def call(
        self, service: str, status: int, body: Any, headers: dict[str, str] | None = None
    ) -> Any:
        content = body.encode() if isinstance(body, str) else body
        self.scripted.answer(status, content, headers or {})
        if service == "groq":
            return (await self.groq.call(GROQ_KEY, REQUEST)).verdict
        return (await self.resend.call(RESEND_KEY, _MAIL)).verdict


@pytest.fixture
async def providers(scripted: ScriptedApi) -> AsyncIterator[WatchedProviders]:
    providers = WatchedProviders(scripted)
    yield providers
    await providers.groq.close()
    await providers.resend.close()


@pytest.mark.parametrize(
    "record",
    _RECORDED,
    ids=lambda record: f"{record['of']} {record['status']} {record['verdict']}",
)
async def test_every_recorded_answer_is_known_and_has_its_own_verdict(
    providers: WatchedProviders, record: dict[str, Any]
) -> None:
    verdict = await providers.call(
        record["of"], record["status"], record["body"], record["headers"]
    )
    assert verdict.code == record["verdict"]
    if "dimension" in record:
        assert [limit.dimension for limit in verdict.limits] == [record["dimension"]]
    assert providers.noticed == []


async def test_the_sandbox_gives_no_unknown_answer_except_on_purpose(
    providers: WatchedProviders,
) -> None:
    for kind, refusal in groq_errors.REFUSALS.items():
        answer = groq_errors.refuse(kind, "m")
        await providers.call("groq", answer.status, answer.body)
        assert providers.noticed == [] or refusal.code == "brand_new_code"
        providers.noticed.clear()
    for refusal_ in resend_errors.REFUSALS.values():
        body = resend_errors.error_body(refusal_.status, refusal_.name, refusal_.message)
        await providers.call("resend", refusal_.status, body)
        assert providers.noticed == [] or refusal_.name == "brand_new_name"
        providers.noticed.clear()


def _error(message: str, code: str = "rate_limit_exceeded") -> dict[str, Any]:
    return {"error": {"message": message, "type": "tokens", "code": code}}


def _completion(message: dict[str, Any], reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "finish_reason": reason, "message": message}], "usage": {}}


_CANARIES = f"{PROMPT} gsk_canary0123456789abcdef ann@example.org org_01abc"


# An answer, and its shape that is recorded.
@pytest.mark.parametrize(
    ("service", "answer", "kind", "shape"),
    [
        ("groq", (400, _error("no", "brand_new_code")), Kind.ERROR_CODE, "400 brand_new_code"),
        (
            "groq",
            (403, _error("no", "who_knows")),
            Kind.ERROR_CODE,
            "403 who_knows",
        ),  # a general rule judges it
        (
            "groq",
            (500, _error("no", "err_8374652")),
            Kind.ERROR_CODE,
            "500 err_N",
        ),  # codes that differ in digits only have one shape
        ("groq", (400, _error("no", PROMPT)), Kind.ERROR_CODE, "400 (a word of the request)"),
        (
            "groq",
            (400, _error("no", "gsk_canary0123456789abcdef")),
            Kind.ERROR_CODE,
            "400 (no name)",
        ),
        ("groq", (400, _error("no", "ann@example.org")), Kind.ERROR_CODE, "400 (no name)"),
        ("groq", (418, b""), Kind.STATUS, "418"),
        (
            "groq",
            (
                429,
                _error(
                    "Rate limit reached on thinking tokens per minute (THPM): Limit 10, Used 10"
                ),
            ),
            Kind.LIMIT_NAME,
            "THPM",
        ),
        (
            "groq",
            (429, _error(f'You "{PROMPT}" have 17 of 3,000 left for `m`, {_CANARIES}')),
            Kind.REFUSAL,
            '429 You "…" have N of N left for `…`, […] *** …@… org_…',
        ),
        (
            "groq",
            (200, _completion({"content": "x", "thoughts": _CANARIES})),
            Kind.MESSAGE_FIELD,
            "thoughts",
        ),
        ("groq", (200, _completion({"content": "x"}, "tired")), Kind.FINISH_REASON, "tired"),
        (
            "groq",
            (200, _completion({"content": "x"}), {"x-ratelimit-limit-thoughts": "7"}),
            Kind.HEADER,
            "x-ratelimit-limit-thoughts",
        ),
        (
            "resend",
            (422, {"name": "brand_new_name", "message": _CANARIES}),
            Kind.ERROR_CODE,
            "422 brand_new_name",
        ),
        ("resend", (418, b""), Kind.STATUS, "418"),
        ("resend", (200, {"id": "1"}, {"ratelimit-burst": "7"}), Kind.HEADER, "ratelimit-burst"),
        ("resend", (200, {"id": "1", "warning": "x"}), Kind.MESSAGE_FIELD, "warning"),
    ],
)
async def test_an_unknown_answer_is_noticed_by_its_shape(
    providers: WatchedProviders, service: str, answer: tuple[Any, ...], kind: Kind, shape: str
) -> None:
    await providers.call(service, *answer)
    assert providers.noticed == [Unknown(service, kind, shape)]


# The providers' documented names of errors, statuses, headers, and parts of an answer.
_DOCUMENTED: dict[str, list[tuple[Any, ...]]] = {
    "groq": [
        *(
            (400, _error("no", code))
            for code in (
                "blocked_api_access", "capacity_exceeded", "context_length_exceeded",
                "invalid_api_key", "json_validate_failed", "model_decommissioned",
                "model_not_found", "model_terms_required", "organization_restricted",
                "tool_use_failed", "model_permission_blocked_org", "spend_alert",
            )
        ),
        *(
            (status, b"")
            for status in (
                400, 401, 402, 403, 404, 408, 409, 413, 421, 422, 424, 425, 429, 498, 499, 500,
                502, 503, 504, *range(520, 528),
            )
        ),
        *(
            (200, _completion({"content": "x", "role": "assistant"}, reason))
            for reason in ("stop", "length", "tool_calls", "function_call", "content_filter")
        ),
        *(
            (200, _completion({"content": "x", name: "x"}))
            for name in (
                "annotations", "channel", "executed_tools", "function_call", "reasoning",
                "tool_calls",
            )
        ),
        *(
            (200, _completion({"content": "x"}), {f"x-ratelimit-{value}-{unit}": "1"})
            for value in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens")
        ),
    ],
    "resend": [
        *(
            (422, {"name": name, "message": "no"})
            for name in (
                "application_error", "concurrent_idempotent_requests", "daily_quota_exceeded",
                "email_above_quota", "internal_server_error", "invalid_access", "invalid_api_key",
                "invalid_attachment", "invalid_from_address", "invalid_idempotency_key",
                "invalid_idempotent_request", "invalid_parameter", "invalid_permission",
                "invalid_region", "method_not_allowed", "missing_api_key",
                "missing_required_field", "missing_required_parameter", "monthly_quota_exceeded",
                "not_found", "payload_too_large", "rate_limit_exceeded", "resource_locked",
                "restricted", "restricted_api_key", "security_error", "service_unavailable",
                "suspended_api_key", "validation_error",
            )
        ),
        *(
            (status, b"")
            for status in (
                400, 401, 403, 404, 405, 408, 409, 413, 421, 422, 425, 429, 451, 499, 500, 502,
                503, 504, *range(520, 528),
            )
        ),
        *(
            (200, {"id": "1", "object": "email", "data": [], "errors": []}, {name: "1"})
            for name in (
                "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy",
                "x-resend-daily-quota", "x-resend-monthly-quota",
            )
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("service", _DOCUMENTED)
async def test_no_documented_answer_is_noticed_as_unknown(
    providers: WatchedProviders, service: str
) -> None:
    for answer in _DOCUMENTED[service]:
        await providers.call(service, *answer)
        assert providers.noticed == [], answer


async def test_a_model_all_of_whose_calls_fail_in_the_same_way_is_noticed(
    providers: WatchedProviders,
) -> None:
    gone = _error("no such model", "model_not_found")
    for _ in range(19):
        await providers.call("groq", 404, gone)
    await providers.call("groq", 200, _completion({"content": "x"}))  # the model works after all
    for _ in range(19):
        await providers.call("groq", 404, gone)
    assert providers.noticed == []
    await providers.call("groq", 404, gone)
    assert providers.noticed == [
        Unknown("groq", Kind.MODEL, "openai/gpt-oss-120b: model_not_found")
    ]


async def test_only_the_latest_models_are_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unknowns, "_MOST_MODELS", 2)
    monkeypatch.setattr(unknowns, "_ALIKE", 2)
    watch = unknowns.GroqWatch(lambda _: None)
    gone = Verdict(Fate.FAIL, "model_not_found")
    assert [watch._fails_alike(model, gone) for model in "aabbacab"] == [
        False, True, False, True, True, False, True, False,
    ]  # fmt: skip


async def test_requests_that_are_all_refused_in_the_same_way_are_noticed_by_their_model(
    providers: WatchedProviders,
) -> None:
    for _ in range(20):
        await providers.call("groq", 413, _error("too large", "request_too_large"))
    models = [unknown for unknown in providers.noticed if unknown.kind is Kind.MODEL]
    assert [unknown.shape.partition(":")[0] for unknown in models] == ["openai/gpt-oss-120b"]


async def test_an_outage_and_an_empty_field_are_not_noticed_as_unknown(
    providers: WatchedProviders,
) -> None:
    for _ in range(25):
        await providers.call("groq", 503, _error("over capacity", ""))
    await providers.call("groq", 200, _completion({"content": "x", "refusal": None}))
    assert providers.noticed == []
