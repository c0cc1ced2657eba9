"""The admin endpoints: what they show, to whom, and whether `docs/openapi.yaml` describes it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from tornado.web import create_signed_value

from config.api_key import make_key
from config.errors import SettingsError
from sandbox.redis import EmbeddedRedis
from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    OPENAPI,
    PREFIX,
    TOKEN,
    Serve,
    described,
    post,
    secret,
    until,
)
from worker.dashboard import poller
from worker.dashboard.application import HANDLERS
from worker.dashboard.page import version
from worker.dashboard.request_body import MAX_BODY_BYTES
from worker.keypool import Lease, LeaseRequest, publish_keys, published_keys
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict


def test_the_description_names_every_address_and_the_limit_of_a_body() -> None:
    served = {
        rule.regex.pattern.rstrip("$").replace("([^/]+)", "{job}")
        for rule in HANDLERS
        if rule.regex.pattern.startswith("/api/admin/")
    }
    assert set(OPENAPI["paths"]) == served
    assert str(MAX_BODY_BYTES) in OPENAPI["components"]["responses"]["TooLarge"]["description"]
    for schema in OPENAPI["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_a_flower_without_keys_knows_those_of_the_workers(serve: Serve) -> None:
    site = await serve(groq=0, resend=0)
    names = site.pools["groq"].names
    old, new = (
        make_key("groq", secret=secret("groq", number), variable=f"GROQ_API_KEY_{number}")
        for number in (2, 10)
    )
    await publish_keys(site.redis, names, [new, old])
    assert [key.variable for key in await published_keys(site.redis, names)] == [
        "GROQ_API_KEY_2",
        "GROQ_API_KEY_10",
    ]
    # A key that no worker has had for ten minutes is gone.
    stored = json.loads(await site.redis.hget(names.keys, old.id))
    stored["seen_s"] -= 601
    await site.redis.hset(names.keys, old.id, json.dumps(stored))
    site.app.poller._reloaded_at = float("-inf")

    async def keys() -> Any:
        answer = await site.client.get(f"{PREFIX}/status", auth=LOGIN)
        return described(answer)["services"]["groq"]["keys"]

    [shown] = await until(keys, lambda views: len(views) == 1)  # not the result of an earlier poll
    assert (shown["id"], shown["label"], shown["state"]) == (new.id, new.label, "ready")
    assert await site.redis.hlen(names.keys) == 1
    assert secret("groq", 10) not in await site.redis.hget(names.keys, new.id)
    # Endpoints refuse the key itself, with an explanation; they accept its id.
    refused = await post(site, "check", json={})
    assert refused.status_code == 404
    assert "keys check` where a worker runs" in refused.json()["message"]
    disabled = await post(site, "disable", json={"service": "groq", "key": new.id})
    assert disabled.status_code == 200


@pytest.mark.parametrize("count", [0, 1, 10])
async def test_the_status_shows_every_key_and_no_secret(serve: Serve, count: int) -> None:
    site = await serve(groq=count, resend=count)
    await site.app.poller.fresh_state(force=True)
    answer = await site.client.get(f"{PREFIX}/status", auth=LOGIN)
    status = described(answer)
    for service in ("groq", "resend"):
        assert len(status["services"][service]["keys"]) == count
        assert not [
            number for number in range(1, count + 1) if secret(service, number) in answer.text
        ]
        assert status["services"][service]["queue"]["paused"] == "unknown"  # no worker runs here
    assert TOKEN not in answer.text
    assert LOGIN[1] not in answer.text


async def test_every_scope_of_a_block_is_described(serve: Serve) -> None:
    site = await serve(groq=5)
    pool = site.pools["groq"]
    await site.disable("groq", 3)
    limits = (ObservedLimit(Dimension.TPM, 8_000, 7_000), ObservedLimit(Dimension.RPD, 1_000))
    rest: dict[str, Any] = {"fate": Fate.NEXT_KEY, "effect": Effect.COOL, "cooldown_ms": 9_000}
    for verdict in (
        Verdict(
            **rest,
            code="rate_limit",
            scope=Scope.ACCOUNT_MODEL,
            sized=True,
            status=429,
            limits=limits,
        ),
        Verdict(**rest, code="spend_limit", scope=Scope.ACCOUNT, status=400, account="acme"),
        Verdict(
            Fate.NEXT_KEY,
            "model_blocked",
            effect=Effect.DISABLE,
            scope=Scope.KEY_RESOURCE,
            status=403,
        ),
        Verdict(
            Fate.OTHER_ACCOUNT,
            "model_not_found",
            effect=Effect.UNFIT,
            scope=Scope.ACCOUNT_MODEL,
            status=404,
        ),
    ):
        lease = await pool.acquire(LeaseRequest(model="m", resource="m", tokens=900))
        assert isinstance(lease, Lease)
        await pool.settle(lease, verdict)
    await site.app.poller.fresh_state(force=True)
    status = described(await site.client.get(f"{PREFIX}/status", auth=LOGIN))
    keys = status["services"]["groq"]["keys"]
    blocks = [block for key in keys for block in key["blocks"]]
    assert {block["scope"] for block in blocks} == {
        "key",
        "account",
        "account_model",
        "key_resource",
    }
    assert {block["state"] for block in blocks} == {"cooling", "disabled", "unfit"}
    assert {block["from_tokens"] for block in blocks} == {0, 900}
    assert {block["disabled_by"] for block in blocks} == {"", "test"}
    assert any(key["buckets"] for key in keys)


async def test_a_session_of_flowers_login_may_look_and_needs_its_token_to_change(
    serve: Serve,
) -> None:
    site = await serve(basic_auth=None, auth=".*@example.com")

    def session(user: str) -> dict[str, str]:
        return {"user": create_signed_value("canary-cookie-secret", "user", user).decode()}

    site.client.cookies.update(session("ada@example.com"))
    assert (await site.client.get(f"{PREFIX}/status")).status_code == 200
    refused = await site.client.post(f"{PREFIX}/reset", json={})
    assert (refused.status_code, described(refused)["error"]) == (403, "forbidden")
    await site.client.get("/keys")
    token = site.client.cookies["_xsrf"]
    done = await site.client.post(f"{PREFIX}/reset", json={}, headers={"X-XSRFToken": token})
    assert described(done)["by"] == "ada@example.com"
    machine = await site.client.post(f"{PREFIX}/reset", json={}, headers=BEARER)
    assert described(machine)["by"] == "token"
    site.client.cookies.update(session("eve@evil.example"))
    assert (await site.client.get(f"{PREFIX}/status")).status_code == 401


async def test_with_only_a_token_configured_only_the_token_gets_in(serve: Serve) -> None:
    site = await serve(basic_auth=None)
    assert (await site.client.get(f"{PREFIX}/status", headers=BEARER)).status_code == 200
    refused = await site.client.get(f"{PREFIX}/status")
    assert refused.headers.get_list("WWW-Authenticate") == ['Bearer realm="flower"']


async def test_the_status_is_pushed_as_it_changes(serve: Serve) -> None:
    site = await serve()
    async with (
        asyncio.timeout(20),
        site.client.stream("GET", f"{PREFIX}/events", auth=LOGIN) as answer,
    ):
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = pushed(answer)
        before = await anext(events)
        key_id = await site.disable()
        async for status in events:
            if status["services"]["groq"]["summary"]["disabled"]:
                break
        assert status["changes"] != before["changes"], "the audit trail has one more entry"
        assert status["services"]["groq"]["keys"][0]["id"] == key_id
    assert (await site.client.get(f"{PREFIX}/events")).status_code == 401


async def pushed(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Return the statuses of a stream, checked against their description."""
    schema = OPENAPI["components"]["schemas"]["Status"] | {"components": OPENAPI["components"]}
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            status = json.loads(line.removeprefix("data: "))
            Draft202012Validator(schema).validate(status)
            yield status
        else:
            assert line in {"", "event: status"}


async def test_the_latest_calls_of_a_key_are_shown(serve: Serve) -> None:
    site = await serve(groq=1)
    key_id = await site.refuse()
    params = {"service": "groq", "key": key_id}
    [call] = described(await site.client.get(f"{PREFIX}/calls", params=params, auth=LOGIN))["calls"]
    assert (call["code"], call["job"], call["model"]) == ("invalid_key", "", "")
    for wrong, status in (({"key": "x"}, 404), ({"service": "x"}, 404)):
        answer = await site.client.get(f"{PREFIX}/calls", params=params | wrong, auth=LOGIN)
        assert answer.status_code == status
    assert (await site.client.get(f"{PREFIX}/calls", auth=LOGIN)).status_code == 400


async def test_a_prefix_of_flowers_stands_before_every_address(serve: Serve) -> None:
    site = await serve(url_prefix="flower")
    assert (await site.client.get(f"/flower{PREFIX}/status", auth=LOGIN)).status_code == 200
    page = await site.client.get("/flower/keys", auth=LOGIN)
    assert 'data-events-url="/flower/api/admin/api-keys/events"' in page.text
    assert (await site.client.get(f"/flower/keys/static/{version()}/keys.js")).status_code == 200


async def test_without_redis_the_answer_is_503_and_comes_back_by_itself(
    serve: Serve, tmp_path: Path
) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        site = await serve(environ={"REDIS_URL": server.url})
        assert (await site.client.get(f"{PREFIX}/status", auth=LOGIN)).status_code == 200
        server.stop()
        for path in ("audit", "status"):
            answer = await site.client.get(f"{PREFIX}/{path}", auth=LOGIN)
            if path == "audit":
                assert described(answer)["error"] == "redis_unreachable"
        answer = await post(site, "reset", json={})
        assert (answer.status_code, described(answer)["error"]) == (503, "redis_unreachable")
        assert str(server.port) not in answer.text
        server.start()
        await until(
            lambda: site.client.get(f"{PREFIX}/status", auth=LOGIN),
            lambda answer: answer.status_code == 200,
        )


async def test_the_poller_starts_and_stops_twice_and_reports_when_it_is_stopped(
    serve: Serve,
) -> None:
    site = await serve()
    site.app.poller.start()
    assert (await site.status())["services"]
    for _ in range(2):
        site.app.poller.stop()
    answer = await site.client.get(f"{PREFIX}/status", auth=LOGIN)
    assert (answer.status_code, described(answer)["error"]) == (503, "redis_unreachable")


async def test_a_key_that_is_added_later_shows_without_a_restart(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = await serve(groq=1)
    assert len((await site.status())["services"]["groq"]["keys"]) == 1
    monkeypatch.setenv("GROQ_API_KEY_2", secret("groq", 2))
    site.app.poller._reloaded_at = float("-inf")

    async def keys() -> int:
        return len((await site.status())["services"]["groq"]["keys"])

    await until(keys, lambda count: count == 2)


async def test_flower_starts_and_says_so_when_keys_cannot_be_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(*_: Any) -> None:
        raise SettingsError([".env cannot be read as UTF-8 text."])

    monkeypatch.setattr(poller, "pools_for_tools", unreadable)
    site = await serve()
    assert (await site.client.get(f"{PREFIX}/status", auth=LOGIN)).status_code == 503
    assert "Flower shows no keys: .env cannot be read" in caplog.text
