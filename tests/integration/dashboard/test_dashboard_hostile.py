"""The requests that the admin endpoints refuse, and the status of each refusal."""

import asyncio
import json
from typing import Any

import pytest

from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    PREFIX,
    Serve,
    Site,
)
from tests.integration.dashboard.hostile_requests import (
    AUDIT,
    CHECK,
    DISABLE,
    JSON,
    REQUESTS,
    RESET,
    RIGHT,
    STATUS,
    Hostile,
)


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
        error = (
            answer.json() if answer.headers["Content-Type"].startswith("application/json") else {}
        )
        if (answer.status_code, error.get("error")) != (case.expected, case.code):
            wrong.append((name, answer.status_code, answer.text[:200]))
        assert set(error) == {"error", "message"}, name
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


async def test_without_a_configured_login_or_token_every_request_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "FLOWER_UNAUTHENTICATED_API", "true"
    )  # opens Flower's own endpoints, but not ours
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
    """Send raw bytes.

    Return the head of the response.
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
    request = [
        f"POST {RESET} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: {authorization}",
        *lines,
    ]
    return ("\r\n".join([*request, "", ""])).encode()


async def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(serve: Serve) -> None:
    site = await serve()
    lines = ("Content-Type: application/json", "Content-Length: 90000000")
    assert b"413" in (await raw(site, head(RIGHT["Authorization"], *lines))).splitlines()[0]


async def test_a_wrong_token_is_refused_before_the_body_is_sent(serve: Serve) -> None:
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
"""The requests that Flower's page of jobs sends by POST."""


async def test_of_the_logins_only_those_of_admins_may_change_anything(serve: Serve) -> None:
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
    for login, code in ((viewer, 200), (("vic", "wrong"), 401)):  # the requests of the page of jobs
        jobs = await site.client.post("/tasks/datatable", auth=login, data=LIST)
        assert jobs.status_code == code
    for path in ("/tasks/datatable/", "/api/worker/shutdown/tasks/datatable"):
        assert (await site.client.post(path, auth=viewer, json={})).status_code == 403
    status = await site.client.get(f"{PREFIX}/status", auth=viewer)
    assert status.json()["read_only"] is True
    page = await site.client.get("/keys", auth=viewer)
    assert "Your login may only look at this page, not change anything." in page.text
    assert "reset-all" not in page.text
    assert (await site.status())["read_only"] is False
    done = await site.client.post(RESET, auth=LOGIN, json={"service": "groq", "key": key_id})
    assert done.json()["by"] == LOGIN[0]
    assert (await site.client.post(RESET, headers=BEARER, json={})).status_code == 200
