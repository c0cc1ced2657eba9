"""What the admin endpoints refuse, and with which status."""

import asyncio
import json
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    PREFIX,
    TOKEN,
    Serve,
    Site,
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
    """One request. `headers` None: the right login and JSON."""

    expected: int
    code: str
    method: str = "POST"
    path: str = RESET
    headers: dict[str, str] | None = None
    extra: dict[str, str] = field(default_factory=dict)
    body: Any = b'{"service": "groq"}'


REQUESTS = {
    # who asks
    "nobody resets": Hostile(401, "login_required", headers=JSON),
    "nobody looks": Hostile(401, "login_required", "GET", STATUS, headers={}, body=b""),
    "nobody reads the audit trail": Hostile(
        401, "login_required", "GET", AUDIT, headers={}, body=b""
    ),
    "nobody reads the usage": Hostile(401, "login_required", "GET", USAGE, headers={}, body=b""),
    "a range that is none": Hostile(
        400, "bad_request", "GET", f"{USAGE}?range=year", headers=RIGHT, body=b""
    ),
    "a step that is too fine for its range": Hostile(
        400, "bad_request", "GET", f"{USAGE}?range=week&step=minute", headers=RIGHT, body=b""
    ),
    "usage by what is not counted": Hostile(
        400, "bad_request", "GET", f"{USAGE}?by=colour", headers=RIGHT, body=b""
    ),
    "a tenant's usage by key": Hostile(
        400, "bad_request", "GET", f"{USAGE}?by=tenant&key=x", headers=RIGHT, body=b""
    ),
    "usage of a service that is none": Hostile(
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
    "nobody disables": Hostile(401, "login_required", path=DISABLE, headers=JSON),
    "nobody checks": Hostile(401, "login_required", path=CHECK, headers=JSON),
    "a wrong password": Hostile(401, "login_required", headers=JSON | basic("ada", "wrong")),
    "another name": Hostile(401, "login_required", headers=JSON | basic("eve", LOGIN[1])),
    "an empty password": Hostile(401, "login_required", headers=JSON | basic("ada", "")),
    "a password that goes on": Hostile(
        401, "login_required", headers=JSON | basic("ada", LOGIN[1] + "x")
    ),
    "letters beyond ASCII in the login": Hostile(
        401, "login_required", headers=JSON | basic("ädä", "pässwörd")
    ),
    "a login that is no base64": Hostile(
        401, "login_required", headers=JSON | {"Authorization": "Basic %%%"}
    ),
    "a login that is no UTF-8": Hostile(
        401, "login_required", headers=JSON | {"Authorization": "Basic //79"}
    ),
    "a scheme alone": Hostile(401, "login_required", headers=JSON | {"Authorization": "Basic"}),
    "a scheme that nobody knows": Hostile(
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
    # from where
    "a form of another site": Hostile(403, "cross_site", extra={"Sec-Fetch-Site": "cross-site"}),
    "a page of a sister site": Hostile(403, "cross_site", extra={"Sec-Fetch-Site": "same-site"}),
    "a wrong origin": Hostile(403, "wrong_origin", extra={"Origin": "https://evil.example"}),
    "an origin without a name": Hostile(403, "wrong_origin", extra={"Origin": "null"}),
    "an origin that is no address": Hostile(403, "wrong_origin", extra={"Origin": "http://[::1"}),
    "an origin of a file": Hostile(403, "wrong_origin", extra={"Origin": "file://127.0.0.1"}),
    "a token used by another site": Hostile(
        403, "wrong_origin", headers=JSON | BEARER, extra={"Origin": "https://evil.example"}
    ),
    # how
    "a form": Hostile(
        415,
        "wrong_content_type",
        extra={"Content-Type": "application/x-www-form-urlencoded"},
        body=b"service=groq",
    ),
    "plain text": Hostile(415, "wrong_content_type", extra={"Content-Type": "text/plain"}),
    "a body of no type": Hostile(415, "wrong_content_type", headers=RIGHT),
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
    # what
    "the service in the address": Hostile(
        400, "bad_request", path=f"{RESET}?service=groq", body=b""
    ),
    "no JSON": Hostile(400, "bad_json", body=b"{service: groq}"),
    "half a JSON": Hostile(400, "bad_json", body=b'{"service": "groq"'),
    "a list": Hostile(400, "bad_json", body=b'["groq"]'),
    "null": Hostile(400, "bad_json", body=b"null"),
    "a body that is no UTF-8": Hostile(400, "bad_json", body=b'{"service": "\xff"}'),
    "a body of brackets": Hostile(400, "bad_json", body=b"[" * 4000),
    "a name that stands twice": Hostile(
        400, "bad_json", body=b'{"service": "groq", "service": "resend"}'
    ),
    "an unknown field": Hostile(400, "unknown_field", body=b'{"servce": "groq"}'),
    "a number as service": Hostile(400, "bad_request", body=b'{"service": 1}'),
    "no text as service": Hostile(400, "bad_request", body=b'{"service": ""}'),
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
    "a filter that nobody knows": Hostile(
        400, "bad_request", "GET", f"{AUDIT}?by=robots", body=b""
    ),
    "a page that is no page": Hostile(400, "bad_request", "GET", f"{AUDIT}?before=1-2-3", body=b""),
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


async def ask(site: Site, case: Hostile) -> Any:
    headers = (RIGHT | JSON if case.headers is None else case.headers) | case.extra
    if not case.body:
        headers = {name: value for name, value in headers.items() if name != "Content-Type"}
    body = case.body
    if isinstance(body, dict):
        names = {"groq key": site.keys["groq"][0].id}
        body = json.dumps({name: names.get(value, value) for name, value in body.items()}).encode()
    return await site.client.request(case.method, case.path, headers=headers, content=body)


async def test_hostile_requests_are_refused_with_the_right_status_and_change_nothing(
    serve: Serve,
) -> None:
    site = await serve(groq=1)
    key_id = await site.refuse()
    assert key_id == site.keys["groq"][0].id
    wrong = []
    for name, case in REQUESTS.items():
        answer = await ask(site, case)
        told = (
            answer.json() if answer.headers["Content-Type"].startswith("application/json") else {}
        )
        if (answer.status_code, told.get("error")) != (case.expected, case.code):
            wrong.append((name, answer.status_code, answer.text[:200]))
        assert set(told) == {"error", "message"}, name
        assert "Access-Control-Allow-Origin" not in answer.headers, name
        assert answer.headers["Cache-Control"] == "no-store", name
        assert "canary" not in answer.text, name
        assert ("WWW-Authenticate" in answer.headers) == (case.expected == 401), name
        assert ("Allow" in answer.headers) == (case.expected == 405), name
    assert not wrong
    assert len(REQUESTS) >= 40
    assert (await site.key("groq"))["state"] == "disabled"
    entries = await site.pools["groq"].audit()
    assert [entry["event"] for entry in entries] == ["disabled"]


async def test_with_nothing_configured_everyone_is_refused_even_here(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "FLOWER_UNAUTHENTICATED_API", "true"
    )  # opens Flower's own endpoints, not ours
    site = await serve(basic_auth=None, token=None)
    for method, path in (("GET", STATUS), ("GET", AUDIT), ("POST", RESET), ("POST", DISABLE)):
        for headers in (
            {},
            RIGHT,
            BEARER,
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer None"},
        ):
            answer = await site.client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (403, "not_configured")
            assert "Access-Control-Allow-Origin" not in answer.headers


async def raw(site: Site, text: bytes) -> bytes:
    """Send bytes as they are.

    Returns what comes back until the end, or until nothing more comes.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.host.rpartition(":")[2]))
    writer.write(text)
    await writer.drain()
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    finally:
        writer.close()
        await writer.wait_closed()


def head(authorization: str, *lines: str) -> bytes:
    told = [f"POST {RESET} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: {authorization}", *lines]
    return ("\r\n".join([*told, "", ""])).encode()


async def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(serve: Serve) -> None:
    site = await serve()
    lines = ("Content-Type: application/json", "Content-Length: 90000000")
    assert b"413" in (await raw(site, head(RIGHT["Authorization"], *lines))).splitlines()[0]


async def test_a_stranger_need_not_send_his_body(serve: Serve) -> None:
    site = await serve()
    lines = ("Content-Type: application/json", "Content-Length: 90000000")
    assert b"401" in (await raw(site, head("Bearer wrong", *lines))).splitlines()[0]


async def test_a_body_in_chunks_without_end_is_refused(serve: Serve) -> None:
    site = await serve()
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    chunks = (b"400\r\n" + b" " * 1024 + b"\r\n") * 80 + b"0\r\n\r\n"
    assert (
        b"413" in (await raw(site, head(RIGHT["Authorization"], *lines) + chunks)).splitlines()[0]
    )


async def test_chunks_without_a_type_are_refused(serve: Serve) -> None:
    site = await serve()
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    assert (
        b"415"
        in (
            await raw(site, head(RIGHT["Authorization"], "Transfer-Encoding: chunked") + chunks)
        ).splitlines()[0]
    )


async def test_read_only_refuses_every_change_and_still_shows(serve: Serve) -> None:
    site = await serve(read_only=True)
    key_id = await site.disable()
    for path, body in ((RESET, {}), (CHECK, {}), (DISABLE, {"service": "groq", "key": key_id})):
        answer = await site.client.post(path, auth=LOGIN, json=body)
        assert (answer.status_code, answer.json()["error"]) == (403, "read_only")
    assert (await site.status())["read_only"] is True
    assert (await site.key("groq"))["state"] == "disabled"


LIST = {"draw": 1, "start": 0, "length": 15, "order[0][column]": 0, "columns[0][data]": "name"}
"""What Flower's page of jobs asks for, by POST."""


async def test_of_those_who_log_in_only_admins_change_anything(serve: Serve) -> None:
    viewer = ("vic", "canary-password-9913")
    logins = tuple(":".join(login) for login in (LOGIN, viewer))
    site = await serve(basic_auth=logins, environ={"ADMIN_USERS": LOGIN[0]})
    key_id = await site.disable()
    changes = [(RESET, {}), (CHECK, {}), (DISABLE, {"service": "groq", "key": key_id})]
    flowers = ["/api/worker/shutdown/w1@host", "/api/task/send-task/tasks.ai.complete"]
    for path, body in [*changes, *((path, {}) for path in flowers)]:
        answer = await site.client.post(path, auth=viewer, json=body)
        assert (answer.status_code, answer.json()["error"]) == (403, "may_only_look")
    result = "/api/task/result/some-job"
    assert (await site.client.get(result, auth=viewer)).status_code == 403
    assert (await site.client.get(result, auth=LOGIN)).status_code != 403
    assert (await site.client.post(flowers[0], auth=("vic", "wrong"), json={})).status_code == 401
    for login, code in ((viewer, 200), (("vic", "wrong"), 401)):  # what the page of jobs asks for
        jobs = await site.client.post("/tasks/datatable", auth=login, data=LIST)
        assert jobs.status_code == code
    for path in ("/tasks/datatable/", "/api/worker/shutdown/tasks/datatable"):
        assert (await site.client.post(path, auth=viewer, json={})).status_code == 403
    status = await site.client.get(f"{PREFIX}/status", auth=viewer)
    assert status.json()["read_only"] is True
    page = await site.client.get("/keys", auth=viewer)
    assert "Your login may look here, but change nothing." in page.text
    assert "reset-all" not in page.text
    assert (await site.status())["read_only"] is False
    done = await site.client.post(RESET, auth=LOGIN, json={"service": "groq", "key": key_id})
    assert done.json()["by"] == LOGIN[0]
    assert (await site.client.post(RESET, headers=BEARER, json={})).status_code == 200
