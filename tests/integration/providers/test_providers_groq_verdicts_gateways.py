"""Verdicts on answers of a gateway in front of Groq, and of an address other than Groq's."""

from typing import Any

import pytest

from tests.integration.providers.groq_request import KEY, REQUEST, error, verdict
from tests.integration.providers.scripted_api import ScriptedApi
from tests.integration.providers.verdict_tables import assert_judged
from worker.providers import Groq
from worker.verdicts import Cooldown, Effect, Fate, Scope

_ROWS: list[Any] = [
    # 403 from the edge: HTML, or JSON without a code
    (
        403,
        b"<html>blocked</html>",
        {"content-type": "text/html"},
        verdict(Fate.RETRY, "edge_blocked", 403, scope=Scope.HOST),
    ),
    (
        403,
        error("Access denied. Check your network settings."),
        {},
        verdict(Fate.RETRY, "edge_blocked", 403, scope=Scope.HOST),
    ),
    # a page blames no key and no job
    *(
        (
            status,
            b"<html>elsewhere</html>",
            {},
            verdict(Fate.RETRY, "edge_blocked", status, scope=Scope.HOST),
        )
        for status in (400, 402, 404, 405, 407, 410, 414, 415, 422, 431, 451)
    ),
    (407, b"", {}, verdict(Fate.RETRY, "edge_blocked", 407, scope=Scope.HOST)),
    # a 401 in another format may be about the key, so the key rests as after a server error
    *(
        (
            401,
            body,
            {},
            verdict(
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
    # answers in a format other than Groq's, such as those of a gateway without a route
    *(
        (status, body, {}, verdict(Fate.RETRY, "edge_blocked", status, scope=Scope.HOST))
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
    # a redirect does not come from Groq, and is not followed
    (
        302,
        b"",
        {"location": "/elsewhere"},
        verdict(Fate.RETRY, "edge_blocked", 302, scope=Scope.HOST),
    ),
    # the base URL is wrong: no request is at fault
    (
        404,
        error("Unknown request URL: POST /x/openai/v1/chat/completions.", "unknown_url"),
        {},
        verdict(Fate.RETRY, "wrong_address", 404, scope=Scope.HOST),
    ),
    # a page: a gateway in front of Groq limits the size of requests
    (413, b"<html>too large</html>", {}, verdict(Fate.OTHER_ACCOUNT, "request_too_large", 413)),
    # a page: a gateway in front of Groq limits this address
    (
        429,
        b"<html>slow down</html>",
        {"retry-after": "9"},
        verdict(Fate.RETRY, "edge_limited", 429, scope=Scope.HOST, counted=False, backoff_ms=9_000),
    ),
    # a gateway's 409 or 424 hits every job alike: no request is at fault
    *(
        (
            status,
            body,
            {},
            verdict(Fate.RETRY, "edge_blocked", status, scope=Scope.HOST, definite=False),
        )
        for status in (409, 424)
        for body in (b"", b"<html>conflict</html>", b'{"message": "no upstream"}')
    ),
]

_SENTENCES: dict[str, tuple[str, ...]] = {
    "edge_blocked": ("a gateway in front of Groq refuses this address (HTTP {status})",),
    "edge_limited": ("a gateway in front of Groq limits the calls from this address",),
    "request_too_large": (
        "a gateway in front of Groq refuses the request as too large (HTTP 413)",
    ),
    "wrong_address": ("Groq does not know this URL: GROQ_BASE_URL is probably wrong",),
}


@pytest.mark.parametrize("row", _ROWS)
async def test_every_row_of_the_table_is_judged_as_written(
    scripted: ScriptedApi, groq: Groq, row: Any
) -> None:
    await assert_judged(groq, (KEY, REQUEST), scripted, row, _SENTENCES)
