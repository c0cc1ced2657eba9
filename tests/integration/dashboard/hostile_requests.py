"""Requests that the admin endpoints must refuse, each with its status and its code."""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    PREFIX,
    TOKEN,
)

RESET, STATUS, AUDIT, CALLS, DISABLE = (
    f"{PREFIX}/{name}" for name in ("reset", "status", "audit", "calls", "disable")
)
CHECK = f"{PREFIX}/check"
USAGE = "/api/admin/usage"
JSON = {"Content-Type": "application/json"}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


RIGHT = basic(*LOGIN)


@dataclass(frozen=True)
class Hostile:
    """One request. If `headers` is None, the login is right and the body is JSON."""

    expected: int
    code: str
    method: str = "POST"
    path: str = RESET
    headers: dict[str, str] | None = None
    extra: dict[str, str] = field(default_factory=dict)
    body: Any = b'{"service": "groq"}'


REQUESTS = {
    # the login
    "a reset without a login": Hostile(401, "login_required", headers=JSON),
    "the status without a login": Hostile(
        401, "login_required", "GET", STATUS, headers={}, body=b""
    ),
    "the audit trail without a login": Hostile(
        401, "login_required", "GET", AUDIT, headers={}, body=b""
    ),
    "the usage without a login": Hostile(401, "login_required", "GET", USAGE, headers={}, body=b""),
    "an unknown range": Hostile(
        400, "bad_request", "GET", f"{USAGE}?range=year", headers=RIGHT, body=b""
    ),
    "a step that is too fine for its range": Hostile(
        400, "bad_request", "GET", f"{USAGE}?range=week&step=minute", headers=RIGHT, body=b""
    ),
    "usage by an unknown dimension": Hostile(
        400, "bad_request", "GET", f"{USAGE}?by=colour", headers=RIGHT, body=b""
    ),
    "a tenant's usage by key": Hostile(
        400, "bad_request", "GET", f"{USAGE}?by=tenant&key=x", headers=RIGHT, body=b""
    ),
    "usage of an unknown service": Hostile(
        404, "unknown_service", "GET", f"{USAGE}?service=openai", headers=RIGHT, body=b""
    ),
    "usage in another format": Hostile(
        400, "bad_request", "GET", f"{USAGE}?format=xml", headers=RIGHT, body=b""
    ),
    "usage with an unknown field": Hostile(
        400, "unknown_field", "GET", f"{USAGE}?colour=red", headers=RIGHT, body=b""
    ),
    "usage of a name with a line break": Hostile(
        400, "bad_request", "GET", f"{USAGE}?model=a%0Ab", headers=RIGHT, body=b""
    ),
    "a disabling without a login": Hostile(401, "login_required", path=DISABLE, headers=JSON),
    "a check without a login": Hostile(401, "login_required", path=CHECK, headers=JSON),
    "a wrong password": Hostile(401, "login_required", headers=JSON | basic("ada", "wrong")),
    "another name": Hostile(401, "login_required", headers=JSON | basic("eve", LOGIN[1])),
    "an empty password": Hostile(401, "login_required", headers=JSON | basic("ada", "")),
    "a password that goes on": Hostile(
        401, "login_required", headers=JSON | basic("ada", LOGIN[1] + "x")
    ),
    "letters beyond ASCII in the login": Hostile(
        401, "login_required", headers=JSON | basic("ädä", "pässwörd")
    ),
    "a login that is not base64": Hostile(
        401, "login_required", headers=JSON | {"Authorization": "Basic %%%"}
    ),
    "a login that is not UTF-8": Hostile(
        401, "login_required", headers=JSON | {"Authorization": "Basic //79"}
    ),
    "a scheme alone": Hostile(401, "login_required", headers=JSON | {"Authorization": "Basic"}),
    "an unknown scheme": Hostile(
        401, "login_required", headers=JSON | {"Authorization": "Digest x"}
    ),
    "a wrong token": Hostile(
        401, "login_required", headers=JSON | {"Authorization": "Bearer wrong"}
    ),
    "an empty token": Hostile(401, "login_required", headers=JSON | {"Authorization": "Bearer"}),
    "a token with one letter less": Hostile(
        401, "login_required", headers=JSON | {"Authorization": f"Bearer {TOKEN[:-1]}"}
    ),
    "the token in the address": Hostile(
        401, "login_required", "GET", f"{STATUS}?token={TOKEN}", headers={}, body=b""
    ),
    "the token as a basic password": Hostile(
        401, "login_required", headers=JSON | basic("token", TOKEN)
    ),
    "a forged session cookie": Hostile(
        401, "login_required", headers=JSON | {"Cookie": "user=ada@example.com"}
    ),
    # the origin
    "a form of another site": Hostile(403, "cross_site", extra={"Sec-Fetch-Site": "cross-site"}),
    "a page of a sister site": Hostile(403, "cross_site", extra={"Sec-Fetch-Site": "same-site"}),
    "a wrong origin": Hostile(403, "wrong_origin", extra={"Origin": "https://evil.example"}),
    "an origin without a name": Hostile(403, "wrong_origin", extra={"Origin": "null"}),
    "an origin that is not an address": Hostile(
        403, "wrong_origin", extra={"Origin": "http://[::1"}
    ),
    "an origin of a file": Hostile(403, "wrong_origin", extra={"Origin": "file://127.0.0.1"}),
    "a token used by another site": Hostile(
        403, "wrong_origin", headers=JSON | BEARER, extra={"Origin": "https://evil.example"}
    ),
    # the method and the encoding
    "a form": Hostile(
        415,
        "wrong_content_type",
        extra={"Content-Type": "application/x-www-form-urlencoded"},
        body=b"service=groq",
    ),
    "plain text": Hostile(415, "wrong_content_type", extra={"Content-Type": "text/plain"}),
    "a body without a type": Hostile(415, "wrong_content_type", headers=RIGHT),
    "another alphabet": Hostile(
        415, "wrong_content_type", extra={"Content-Type": "application/json; charset=utf-16"}
    ),
    "a compressed body": Hostile(415, "wrong_content_type", extra={"Content-Encoding": "gzip"}),
    "an oversized body": Hostile(413, "too_large", body=b'{"service": "' + b"x" * 70_000 + b'"}'),
    "PUT": Hostile(405, "method_not_allowed", "PUT"),
    "DELETE": Hostile(405, "method_not_allowed", "DELETE"),
    "reset by a link": Hostile(405, "method_not_allowed", "GET", body=b""),
    "a preflight": Hostile(405, "method_not_allowed", "OPTIONS", body=b""),
    "a status that is posted": Hostile(405, "method_not_allowed", path=STATUS),
    # the content
    "the service in the address": Hostile(
        400, "bad_request", path=f"{RESET}?service=groq", body=b""
    ),
    "no JSON": Hostile(400, "bad_json", body=b"{service: groq}"),
    "half a JSON": Hostile(400, "bad_json", body=b'{"service": "groq"'),
    "a list": Hostile(400, "bad_json", body=b'["groq"]'),
    "null": Hostile(400, "bad_json", body=b"null"),
    "a body that is not UTF-8": Hostile(400, "bad_json", body=b'{"service": "\xff"}'),
    "a body of brackets": Hostile(400, "bad_json", body=b"[" * 4000),
    "a name that stands twice": Hostile(
        400, "bad_json", body=b'{"service": "groq", "service": "resend"}'
    ),
    "an unknown field": Hostile(400, "unknown_field", body=b'{"servce": "groq"}'),
    "a number as service": Hostile(400, "bad_request", body=b'{"service": 1}'),
    "an empty service": Hostile(400, "bad_request", body=b'{"service": ""}'),
    "a list as service": Hostile(400, "bad_request", body=b'{"service": ["groq"]}'),
    "a service with a line end": Hostile(400, "bad_request", body=b'{"service": "groq\\n"}'),
    "a key without its service": Hostile(400, "bad_request", body=b'{"key": "0123456789ab"}'),
    "an unknown service": Hostile(404, "unknown_service", body=b'{"service": "openai"}'),
    "a service in capitals": Hostile(404, "unknown_service", body=b'{"service": "GROQ"}'),
    "a service from the prototype": Hostile(
        404, "unknown_service", body=b'{"service": "__class__"}'
    ),
    "an unknown key": Hostile(
        404, "unknown_key", body=b'{"service": "groq", "key": "0123456789ab"}'
    ),
    "a name of Redis as key": Hostile(
        404, "unknown_key", body=b'{"service": "groq", "key": "x}:key:*"}'
    ),
    "a key of another service": Hostile(
        404, "unknown_key", body={"service": "resend", "key": "groq key"}
    ),
    "nothing to disable": Hostile(400, "bad_request", path=DISABLE, body=b"{}"),
    "a service to disable": Hostile(400, "bad_request", path=DISABLE),
    "a reason without end": Hostile(
        400, "bad_request", path=DISABLE, body={"service": "groq", "key": "x", "reason": "y" * 201}
    ),
    "a word for a yes": Hostile(400, "bad_request", body=b'{"include_disabled": "yes"}'),
    "a number for an id": Hostile(400, "bad_request", body=b'{"include_disabled": [1]}'),
    "a number for a yes": Hostile(400, "bad_request", body=b'{"include_disabled": 1}'),
    "a yes where it means nothing": Hostile(
        400, "unknown_field", path=DISABLE, body=b'{"include_disabled": true}'
    ),
    "a huge count": Hostile(400, "bad_request", "GET", f"{AUDIT}?count=99999", body=b""),
    "a count just too large": Hostile(400, "bad_request", "GET", f"{AUDIT}?count=201", body=b""),
    "an unknown filter": Hostile(400, "bad_request", "GET", f"{AUDIT}?by=robots", body=b""),
    "an invalid page": Hostile(400, "bad_request", "GET", f"{AUDIT}?before=1-2-3", body=b""),
    "a page before time began": Hostile(400, "bad_request", "GET", f"{AUDIT}?before=0", body=b""),
    **{
        f"a field twice in the address of {path}": Hostile(
            400, "bad_request", "GET", f"{path}?{name}=groq&{name}=resend", body=b""
        )
        for path, name in (
            (AUDIT, "by"),
            (CALLS, "service"),
            (USAGE, "service"),
            ("/api/admin/quote", "service"),
            ("/api/admin/dead-letters", "service"),
        )
    },
    "an unknown field in the address": Hostile(
        400, "unknown_field", "GET", f"{AUDIT}?limit=5", body=b""
    ),
    "calls of no key": Hostile(400, "bad_request", "GET", f"{CALLS}?service=groq", body=b""),
    "calls of a tenant": Hostile(
        400, "unknown_field", "GET", f"{CALLS}?service=groq&key=x&tenant=y", body=b""
    ),
    "a negative count": Hostile(400, "bad_request", "GET", f"{AUDIT}?count=-1", body=b""),
    "a count in other digits": Hostile(400, "bad_request", "GET", f"{AUDIT}?count=٣", body=b""),
}
