from typing import Any
from unittest.mock import ANY

import pytest

from tests.integration.providers.groq_asking import ASKED, KEY, MODEL, error
from worker.providers import Groq
from worker.verdicts import Cooldown, Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

_TPD = (
    f"Rate limit reached for model `{MODEL}` in organization `org_01abc` service tier `on_demand` "
    "on tokens per day "
    "(TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 9m38.016s. Need more "
    "tokens? Upgrade today."
)
_OTPM = (
    f"Request too large for model `{MODEL}` in organization `org_01abc` service tier `on_demand` "
    "on output tokens per "
    "minute (OTPM): Limit 1000, Requested 1024, please reduce your message size and try again."
)
_ITPM = (
    f"Rate limit reached for model `{MODEL}` in organization `org_01abc` service tier `flex` on "
    "input tokens per "
    "minute (ITPM): Limit 7000, Used 4690, Requested 2602. Please try again in 2.5s."
)
_RPM = (
    f"Rate limit reached for model `{MODEL}` in organization `org_01abc` on requests per minute "
    "(RPM): Limit 30, "
    "Used 30, Requested 1. Please try again in 2s."
)
_TPM_TOO_LARGE = (
    f"Request too large for model `{MODEL}` in organization `org_01abc` on tokens per minute "
    "(TPM): Limit 6000, "
    "Requested 8200, please reduce your message size and try again."
)


def _verdict(fate: Fate, code: str, status: int, **more: Any) -> dict[str, Any]:
    """The full expectation: what is not named must be at its default."""
    plain = Verdict(fate, code)
    fields = (
        "effect",
        "scope",
        "cooldown",
        "cooldown_ms",
        "sized",
        "definite",
        "counted",
        "backoff_ms",
        "most_repeats",
        "account",
        "limits",
        "too_large_limit",
        "service_tier",
        "certain",
    )
    return (
        {"fate": fate, "code": code, "status": status}
        | {name: getattr(plain, name) for name in fields}
        | more
    )


_INVALID = _verdict(Fate.NEXT_KEY, "invalid_key", 401, effect=Effect.DISABLE)
_RESTRICTED = {"effect": Effect.DISABLE, "scope": Scope.ACCOUNT}
_SPENT = {
    "effect": Effect.COOL,
    "scope": Scope.ACCOUNT,
    "cooldown": Cooldown.HOURLY_PROBE,
    "cooldown_ms": ANY,
}
_UNFIT = {
    "effect": Effect.UNFIT,
    "scope": Scope.ACCOUNT_MODEL,
    "cooldown": Cooldown.HOURLY_PROBE,
}
_BLOCKED = {"effect": Effect.DISABLE, "scope": Scope.KEY_RESOURCE}
_COOL = {"effect": Effect.COOL, "scope": Scope.ACCOUNT_MODEL}
_TWICE_MORE = {"definite": False, "most_repeats": 2}
_FAULT = {
    "effect": Effect.COOL,
    "cooldown": Cooldown.SERVER_ERROR,
    "definite": False,
    "counted": False,
}

_ROWS: list[Any] = [
    # 401: the status decides, whatever the code says
    (401, error("Invalid API Key", "invalid_api_key"), {}, _INVALID),
    (401, error("Invalid API Key", "something_else"), {}, _INVALID),
    (
        401,
        error("messages: invalid API key in line 3", "bad_request"),
        {},
        _INVALID | {"certain": False},
    ),
    # a stand-in that says it with 403
    (403, error("bad key", "invalid_api_key"), {}, _INVALID | {"status": 403}),
    # the whole organisation is banned
    (
        400,
        error("Organization has been restricted.", "organization_restricted"),
        {},
        _verdict(Fate.NEXT_KEY, "organization_restricted", 400, **_RESTRICTED),
    ),
    (
        403,
        error("restricted: organization `org_01abc`", "organization_restricted"),
        {},
        _verdict(Fate.NEXT_KEY, "organization_restricted", 403, **_RESTRICTED, account="org_01abc"),
    ),
    # the spend limit: probed hourly
    (
        400,
        error("blocked", "blocked_api_access"),
        {},
        _verdict(Fate.NEXT_KEY, "spend_limit", 400, **_SPENT),
    ),
    (
        400,
        error("spend", "spend_limit_reached"),
        {},
        _verdict(Fate.NEXT_KEY, "spend_limit", 400, **_SPENT),
    ),
    (402, error("pay first"), {}, _verdict(Fate.NEXT_KEY, "spend_limit", 402, **_SPENT)),
    # the model is off for this key
    (
        403,
        error("blocked", "model_permission_blocked_project"),
        {},
        _verdict(Fate.NEXT_KEY, "model_blocked", 403, **_BLOCKED),
    ),
    (
        403,
        error("blocked", "model_permission_blocked_org"),
        {},
        _verdict(Fate.NEXT_KEY, "model_blocked", 403, **_BLOCKED),
    ),
    # the organisation has not accepted the model's terms; others may have
    (
        400,
        error("The model `m` requires terms acceptance.", "model_terms_required"),
        {},
        _verdict(Fate.OTHER_ACCOUNT, "model_terms", 400, **_UNFIT),
    ),
    # 403 by the edge: HTML, or JSON without a code
    (
        403,
        b"<html>blocked</html>",
        {"content-type": "text/html"},
        _verdict(Fate.RETRY, "edge_blocked", 403, scope=Scope.HOST),
    ),
    (
        403,
        error("Access denied. Check your network settings."),
        {},
        _verdict(Fate.RETRY, "edge_blocked", 403, scope=Scope.HOST),
    ),
    # a page blames no key and no job
    *(
        (
            status,
            b"<html>elsewhere</html>",
            {},
            _verdict(Fate.RETRY, "edge_blocked", status, scope=Scope.HOST),
        )
        for status in (400, 402, 404, 405, 407, 410, 414, 415, 422, 431, 451)
    ),
    (407, b"", {}, _verdict(Fate.RETRY, "edge_blocked", 407, scope=Scope.HOST)),
    # a 401 may blame the key after all, which rests as after a server error
    *(
        (
            401,
            body,
            {},
            _verdict(
                Fate.RETRY,
                "edge_blocked",
                401,
                effect=Effect.COOL,
                cooldown=Cooldown.SERVER_ERROR,
            ),
        )
        for body in (
            b"",
            b"Jwt is missing",
            {"message": "who are you?"},
            {"error": {"code": "401", "message": "who are you?"}},
            b"<html>who?</html>",
        )
    ),
    # so does what else is not in Groq's form, as of a gateway whose route to it is missing
    *(
        (status, body, {}, _verdict(Fate.RETRY, "edge_blocked", status, scope=Scope.HOST))
        for status, body in (
            *((400, body) for body in (b"", b"Bad Request", {"message": "Bad Request"}, [])),
            (402, b"Payment required"),
            (404, b"404 page not found"),
            (404, b""),
            (404, {"message": "no Route matched with those values"}),
            *(
                (status, {"error": {"code": str(status), "message": "no"}})  # no type
                for status in (400, 402, 403, 404)
            ),
            (403, {"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}),
            (405, b"method not allowed"),
            (410, b"gone"),
            (414, b"URI Too Long"),
            (415, b""),
            (418, {"error": "a teapot"}),
            (422, {"detail": [{"loc": ["header"], "msg": "field required"}]}),
            (426, b""),
            (451, {"statusCode": 451, "message": "not here"}),
        )
    ),
    # a redirect is no answer of Groq, and is not followed
    (
        302,
        b"",
        {"location": "/elsewhere"},
        _verdict(Fate.RETRY, "edge_blocked", 302, scope=Scope.HOST),
    ),
    # 403 with a code that nobody has described
    (403, error("no", "who_knows"), {}, _verdict(Fate.OTHER_ACCOUNT, "forbidden", 403)),
    # an unknown or retired model
    (
        404,
        error("no such", "model_not_found"),
        {},
        _verdict(Fate.OTHER_ACCOUNT, "model_not_found", 404, **_UNFIT),
    ),
    # nothing is where all calls go: no request's fault
    (
        404,
        error("Unknown request URL: POST /x/openai/v1/chat/completions.", "unknown_url"),
        {},
        _verdict(Fate.RETRY, "wrong_address", 404, scope=Scope.HOST),
    ),
    (404, error("nothing here"), {}, _verdict(Fate.OTHER_ACCOUNT, "model_not_found", 404)),
    (
        400,
        error("old", "model_decommissioned"),
        {},
        _verdict(Fate.OTHER_ACCOUNT, "model_not_found", 400, **_UNFIT),
    ),
    # a service tier that is not in the organisation's plan
    (
        400,
        error("`service_tier` `flex` is not available for this org. You can check your plan at …"),
        {},
        _verdict(Fate.OTHER_ACCOUNT, "tier_unavailable", 400, **_UNFIT),
    ),
    # validation and context length
    (400, error("'messages.0' : no"), {}, _verdict(Fate.FAIL, "rejected", 400)),
    (400, error("too long", "context_length_exceeded"), {}, _verdict(Fate.FAIL, "rejected", 400)),
    (422, error("semantic"), {}, _verdict(Fate.FAIL, "rejected", 422)),
    (418, error("a teapot"), {}, _verdict(Fate.FAIL, "rejected", 418)),
    # a bad generation
    (
        400,
        error("no JSON", "json_validate_failed"),
        {},
        _verdict(Fate.RETRY, "bad_generation", 400, **_TWICE_MORE),
    ),
    (
        400,
        error("no tool", "tool_use_failed"),
        {},
        _verdict(Fate.RETRY, "bad_generation", 400, **_TWICE_MORE),
    ),
    # larger than the limit of this organisation and model: 413, and a 429 that says the same
    (
        413,
        error(_TPM_TOO_LARGE, "rate_limit_exceeded", "tokens"),
        {},
        _verdict(
            Fate.OTHER_ACCOUNT,
            "request_too_large",
            413,
            account="org_01abc",
            too_large_limit=6000,
            too_large_in=Dimension.TPM,
            limits=(ObservedLimit(Dimension.TPM, 6000),),
        ),
    ),
    (
        429,
        error(_TPM_TOO_LARGE, "rate_limit_exceeded", "tokens"),
        {"retry-after": "20"},
        _verdict(
            Fate.OTHER_ACCOUNT,
            "request_too_large",
            429,
            account="org_01abc",
            too_large_limit=6000,
            too_large_in=Dimension.TPM,
            limits=(ObservedLimit(Dimension.TPM, 6000),),
        ),
    ),
    (413, b"<html>too large</html>", {}, _verdict(Fate.OTHER_ACCOUNT, "request_too_large", 413)),
    # limits of prompts and of answers alone; the latter may come as a plain invalid request
    *(
        (
            400,
            error(_OTPM.replace("1024", requested)),
            {},
            _verdict(
                Fate.OTHER_ACCOUNT,
                "request_too_large",
                400,
                account="org_01abc",
                service_tier="on_demand",
            )
            | {
                "too_large_limit": 1000,
                "too_large_in": Dimension.OTPM,
                "limits": (ObservedLimit(Dimension.OTPM, 1000),),
            },
        )
        for requested in ("1024", "2,048")
    ),
    (
        400,
        error(_ITPM),
        {},
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            400,
            **_COOL,
            cooldown_ms=2_500,
            sized=True,
            account="org_01abc",
            service_tier="flex",
            limits=(ObservedLimit(Dimension.ITPM, 7000, 2310.0),),
        ),
    ),
    # the limit of a project stays with the key, and teaches nothing of the organisation
    (
        429,
        error(
            _TPD.replace("service tier", "in project `project_01` service tier"),
            "rate_limit_exceeded",
            "tokens",
        ),
        {},
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            effect=Effect.COOL,
            scope=Scope.KEY_RESOURCE,
            cooldown_ms=578_016,
            account="org_01abc",
            service_tier="on_demand",
        ),
    ),
    # the same words where they do not stand at the beginning may be the user's
    (400, error(f"'messages.0' : {_OTPM}"), {}, _verdict(Fate.FAIL, "rejected", 400)),
    # a rate limit: the longer of retry-after and the words, which say exactly what the header
    # rounds up
    (
        429,
        error(_TPD, "rate_limit_exceeded", "tokens"),
        {"retry-after": "2"},
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=578_016,
            sized=True,
            account="org_01abc",
            service_tier="on_demand",
            limits=(ObservedLimit(Dimension.TPD, 100_000, 2_950.0),),
        ),
    ),
    # where it does not say what is used, nobody knows what a smaller one finds
    (
        429,
        error(_TPD.replace("Used 97050, ", ""), "rate_limit_exceeded", "tokens"),
        {"retry-after": "2"},
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=578_016,
            account="org_01abc",
            service_tier="on_demand",
            limits=(ObservedLimit(Dimension.TPD, 100_000),),
        ),
    ),
    (
        429,
        error(_RPM, "rate_limit_exceeded", "requests"),
        {"retry-after": "7"},
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=7_000,
            account="org_01abc",
            limits=(ObservedLimit(Dimension.RPM, 30, 0.0),),
        ),
    ),
    (
        429,
        error(_RPM, "rate_limit_exceeded", "requests"),
        {"retry-after": "3"},
        _verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            429,
            **_COOL,
            cooldown_ms=2_000,
            account="org_01abc",
            limits=(ObservedLimit(Dimension.RPM, 30, 0.0),),
        ),
    ),
    # only a header, as a date; only a zero, which must not become a busy loop
    (
        429,
        error("slow down"),
        {"retry-after": "Tue, 10 Nov 2026 12:00:30 GMT"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=30_000),
    ),
    (
        429,
        b"",
        {"retry-after": "0"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=100),
    ),
    # a 429 that says nothing: the service's default
    (429, b"", {}, _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL)),
    (
        429,
        error("Too many requests"),
        {"retry-after": "soon"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL),
    ),
    # several waits at once: the longest; an absurd number is none
    (
        429,
        b"",
        {"retry-after": "7, 2"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=7_000),
    ),
    (
        429,
        error(
            _RPM.replace("Limit 30", "Limit 9999999999999999999"), "rate_limit_exceeded", "requests"
        ),
        {"x-ratelimit-limit-tokens": "9999999999999999999"},
        _verdict(Fate.NEXT_KEY, "rate_limit", 429, **_COOL, cooldown_ms=2_000, account="org_01abc"),
    ),
    # a page: something before Groq limits this address
    (
        429,
        b"<html>slow down</html>",
        {"retry-after": "9"},
        _verdict(
            Fate.RETRY, "edge_limited", 429, scope=Scope.HOST, counted=False, backoff_ms=9_000
        ),
    ),
    # flex capacity: a jittered backoff, the key is fine
    (
        498,
        error("full", "capacity_exceeded"),
        {},
        _verdict(Fate.RETRY, "flex_capacity", 498, backoff_ms=4_500),
    ),
    # the model is overloaded for every key
    (
        503,
        error("over capacity"),
        {"retry-after": "9"},
        _verdict(
            Fate.RETRY,
            "over_capacity",
            503,
            scope=Scope.MODEL,
            definite=False,
            counted=False,
            backoff_ms=9_000,
        ),
    ),
    (
        503,
        b"<html/>",
        {},
        _verdict(
            Fate.RETRY, "over_capacity", 503, scope=Scope.MODEL, definite=False, counted=False
        ),
    ),
    # server errors cool the key briefly
    (500, error("Internal Server Error"), {}, _verdict(Fate.RETRY, "server_error", 500, **_FAULT)),
    (502, b"<html>bad gateway</html>", {}, _verdict(Fate.RETRY, "server_error", 502, **_FAULT)),
    (
        504,
        b"",
        {"retry-after": "86400"},
        _verdict(Fate.RETRY, "server_error", 504, **_FAULT, backoff_ms=300_000),
    ),
    # a tool server of the request's failed, which is nothing of the key's
    (
        424,
        error("failed dependency"),
        {},
        _verdict(Fate.RETRY, "dependency_failed", 424, definite=False),
    ),
    # a gateway's conflict or dependency is nothing of the request's: it hits every job alike
    *(
        (
            status,
            body,
            {},
            _verdict(Fate.RETRY, "edge_blocked", status, scope=Scope.HOST, definite=False),
        )
        for status in (409, 424)
        for body in (b"", b"<html>conflict</html>", b'{"message": "no upstream"}')
    ),
    # what the SDK would repeat by itself
    (408, b"", {}, _verdict(Fate.RETRY, "not_now", 408, definite=False)),
    (409, error("conflict"), {}, _verdict(Fate.RETRY, "not_now", 409, definite=False)),
    (
        421,
        b"",
        {"retry-after": "1"},
        _verdict(Fate.RETRY, "not_now", 421, definite=False, backoff_ms=1_000),
    ),
    (425, b"", {}, _verdict(Fate.RETRY, "not_now", 425, definite=False)),
    (499, b"", {}, _verdict(Fate.RETRY, "not_now", 499, definite=False)),
    # a 200 that is no completion: text/html (the SDK returns a str), bad JSON (it raises), JSON of
    # another shape
    *(
        (
            200,
            body,
            {"content-type": kind},
            _verdict(Fate.RETRY, "unreadable_answer", 200, scope=Scope.HOST, definite=False),
        )
        for body, kind in (
            (b"<html>welcome</html>", "text/html"),
            (b'{"choices": [', "application/json"),
            (b"\xff\xfe\x00", "application/json"),
            (b"[]", "application/json"),
            (b'{"choices": []}', "application/json"),
            (b'{"choices": [{"message": null}]}', "application/json"),
        )
    ),
]


# What a caller or an operator reads of each code: how its sentence begins.
_SAYS: dict[str, tuple[str, ...]] = {
    "bad_generation": ("the model's output did not fit the requested form",),
    "dependency_failed": ("a tool server that the request names has failed",),
    "edge_blocked": ("something before Groq refuses this address (HTTP {status})",),
    "edge_limited": ("something before Groq limits the calls from this address",),
    "flex_capacity": ("Groq has no flex capacity at the moment",),
    "forbidden": ("Groq rejects the request: no",),
    "invalid_key": ("Groq does not accept this key",),
    "model_blocked": ("this model is switched off for this key",),
    "model_not_found": ("Groq rejects the request: ",),
    "model_terms": (
        (
            "the organisation has not accepted the model's terms: accept them in its console, then "
            "reset the key"
        ),
    ),
    "not_now": ("Groq did not take the request this time (HTTP {status})",),
    "organization_restricted": ("Groq has restricted the whole organisation",),
    "over_capacity": ("the model is overloaded for every key",),
    "rate_limit": ("Groq's limit is reached",),
    "rejected": ("Groq rejects the request: ",),
    "request_too_large": (
        "something before Groq refuses the request as too large (HTTP 413)",
        "the request is larger than this organisation may send for this model",
        "the request needs 8200 tokens, this organisation's limit for this model is 6000",
        (
            "the request reserves 1024 tokens for its answer, this organisation's limit for this "
            "model is 1000: lower max_completion_tokens"
        ),
        (
            "the request reserves 2048 tokens for its answer, this organisation's limit for this "
            "model is 1000: lower max_completion_tokens"
        ),
    ),
    "server_error": ("Groq failed (HTTP {status})",),
    "spend_limit": ("the organisation's spend limit at Groq is reached",),
    "tier_unavailable": ("Groq rejects the request: `service_tier` `flex` is not available",),
    "unreadable_answer": ("Groq answered with something that is not a completion",),
    "wrong_address": ("Groq has nothing at this address: GROQ_BASE_URL is probably wrong",),
}


@pytest.mark.parametrize(("answer", "expected"), [(row[:3], row[3]) for row in _ROWS])
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: Any, groq: Groq, answer: tuple[int, Any, dict[str, str]], expected: dict[str, Any]
) -> None:
    scripted.answer(*answer)

    reply = await groq.call(KEY, ASKED)

    assert {name: getattr(reply.verdict, name) for name in expected} == expected
    assert reply.value is None
    says = [words.format(status=reply.verdict.status) for words in _SAYS[reply.verdict.code]]
    assert reply.verdict.reason.startswith(tuple(says))
    assert len(scripted.seen) == 1  # the SDK tried once
