"""What the admin endpoints and the log say of a fault of our own, and of a Redis that is away."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.integration.dashboard.dashboard_site import LOGIN, PREFIX, Serve
from worker.dashboard import api, poller

_ASKED = (
    *(f"{PREFIX}/{path}" for path in ("status", "events", "audit", "calls?service=groq&key=k")),
    *(f"/api/admin/{path}" for path in ("usage", "quote?service=groq", "dead-letters", "jobs/j1")),
)
_CHANGES = {
    **{f"{PREFIX}/{path}": {} for path in ("reset", "check", "reload")},
    **{f"{PREFIX}/{path}": {"service": "groq"} for path in ("pause", "resume")},
    **{f"{PREFIX}/{path}": {"service": "groq", "key": "k"} for path in ("disable", "enable")},
    f"{PREFIX}/note": {"service": "groq", "key": "k", "note": "n"},
    **{f"/api/admin/dead-letters/{path}": {"all": True} for path in ("replay", "drop")},
    "/api/admin/jobs/j1/cancel": {},
}


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (ValueError("a detail"), 500, "internal_error"),
        (poller.RedisUnreachable("away"), 503, "redis_unreachable"),
    ],
)
async def test_every_endpoint_tells_a_fault_of_our_own_from_one_of_redis_without_a_trace(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, fault: Exception, status: int, code: str
) -> None:
    site = await serve()
    monkeypatch.setattr(api, "_REPLY_TIMEOUT_S", 0.01)  # there are no workers

    async def broken(*_: Any, **__: Any) -> None:
        raise fault

    async def get(path: str) -> httpx.Response:
        return await site.client.get(path, auth=LOGIN)

    asked = []
    # What else these read comes first.
    for reads, path in (("with_broker", "/api/admin/jobs/j1"), ("with_actions", f"{PREFIX}/audit")):
        with monkeypatch.context() as patch:
            patch.setattr(site.app.poller, reads, broken)
            asked.append(await get(path))
    monkeypatch.setattr(site.app.poller, "_on_its_thread", broken)
    asked += [await get(path) for path in _ASKED]
    asked += [
        await site.client.post(path, auth=LOGIN, json=body) for path, body in _CHANGES.items()
    ]
    found = [
        (answer.request.url.path, answer.status_code, answer.json().get("error"))
        for answer in asked
    ]
    assert found == [(path, status, code) for path, *_ in found]
    assert not [answer.text for answer in asked if "detail" in answer.text]


async def test_keys_that_cannot_be_read_are_logged_once_for_as_long_as_that_lasts(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(poller, "_INTERVAL_S", 0.01)
    site = await serve()
    tries: list[str] = []

    def broken(service: str) -> None:
        tries.append(service)
        site.app.poller.reload_keys_soon()
        raise ZeroDivisionError

    for times in (1, 2):
        tries.clear()
        with monkeypatch.context() as patch:
            patch.setattr(poller, "load_keys", broken)
            site.app.poller.reload_keys_soon()
            async with asyncio.timeout(10):
                while len(tries) < 3:  # noqa: ASYNC110 - the poller's thread tries
                    await asyncio.sleep(0.01)
        assert caplog.text.count("cannot read the key pools (ZeroDivisionError)") == times
        async with asyncio.timeout(10):
            while site.app.poller.state is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
