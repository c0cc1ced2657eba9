"""People's actions by the admin endpoints: check, reload, pause, disable, cancel."""

import asyncio
import json
from typing import Any

import pytest

from config.services import SERVICES
from sandbox.process import Sandbox
from sandbox.redis import free_port
from tests.integration.dashboard.dashboard_site import (
    LOGIN,
    PREFIX,
    Serve,
    described,
    post,
    secret,
)


async def test_a_check_shows_what_the_providers_say_about_each_key(serve: Serve) -> None:
    with Sandbox(groq_keys=0, resend_keys=0, accept_unknown_keys=True) as sandbox:
        urls = {"GROQ_BASE_URL": sandbox.groq_base_url, "RESEND_API_URL": sandbox.resend_api_url}
        site = await serve(environ=urls)
        report = described(await post(site, "check", json={}))
        assert [key["state"] for key in report["keys"]] == ["alive"] * 5
        assert report["keys"][3]["limits"] == {"epd": 100, "epmo": 3_000, "rps": 2}
        assert report["problems"] == []
        sandbox.control("revoke", key=secret("groq", 1))
        report = described(await post(site, "check", json={"service": "groq"}))
        assert [key["state"] for key in report["keys"]] == ["dead", "alive", "alive"]
        assert report["keys"][0]["detail"] == "Invalid API Key (HTTP 401)"
        assert "is not accepted: Invalid API Key" in report["problems"][0]
        assert secret("groq", 1) not in json.dumps(report)
        second = {"service": "groq", "key": site.keys["groq"][1].id}
        report = described(await post(site, "check", json=second))
        assert ([key["id"] for key in report["keys"]], report["problems"]) == ([second["key"]], [])
        assert (await post(site, "check", json=second | {"key": "unknown"})).status_code == 404


async def test_without_a_worker_a_reload_says_that_none_answered(serve: Serve) -> None:
    site = await serve()
    assert described(await post(site, "reload", json={})) == {"workers": {}, "by": LOGIN[0]}
    assert (await post(site, "reload", json={"service": "groq"})).status_code == 400
    audit = await site.client.get(f"{PREFIX}/audit?by=people", auth=LOGIN)
    assert {
        (entry["service"], entry["event"], entry["name"], entry["reason"], entry["by"])
        for entry in audit.json()["entries"]
    } == {
        (service, "reloaded", service, "no worker answered", "flower ada") for service in SERVICES
    }


async def test_a_service_is_paused_and_resumed(serve: Serve) -> None:
    site = await serve()
    paused = await post(site, "pause", json={"service": "groq", "reason": "bill", "for_s": 60})
    assert described(paused) == {
        "paused": "groq",
        "newly": True,
        "left_ms": 60_000,
        "before": None,
        "by": LOGIN[0],
    }
    services = (await site.status())["services"]
    groq, resend = services["groq"], services["resend"]
    blocks = [block for key in groq["keys"] for block in key["blocks"]]
    assert [(block["scope"], block["reason"], block["disabled_by"]) for block in blocks] == [
        ("host", "bill", "flower ada")
    ] * 3
    assert (groq["summary"]["ready"], resend["summary"]["ready"]) == (0, 2)
    resumed = described(await post(site, "resume", json={"service": "groq"}))
    assert resumed == {"resumed": "groq", "newly": True, "by": LOGIN[0]}
    assert described(await post(site, "resume", json={"service": "groq"}))["newly"] is False
    assert (await site.status())["services"]["groq"]["summary"]["ready"] == 3
    assert (await post(site, "pause", json={})).status_code == 400
    assert (await post(site, "pause", json={"service": "nope"})).status_code == 404


async def test_a_key_is_disabled_for_a_time_enabled_and_has_a_note(serve: Serve) -> None:
    site = await serve()
    named = {"service": "groq", "key": site.keys["groq"][0].id}
    done = await post(site, "disable", json=named | {"reason": "launch", "for_s": 3_600})
    assert described(done)["newly"] is True
    key = (await site.status())["services"]["groq"]["keys"][0]
    assert (key["state"], key["reason"]) == ("disabled", "launch")
    assert 3_590_000 < key["left_ms"] <= 3_600_000
    pasted = f"see {secret('groq', 2)}"
    note = described(await post(site, "note", json=named | {"note": pasted}))["note"]
    assert note == f"see {site.keys['groq'][1].label}", "a note contains no secret"
    assert described(await post(site, "enable", json=named)) == {
        "enabled": named["key"],
        "newly": True,
        "by": LOGIN[0],
    }
    assert described(await post(site, "enable", json=named))["newly"] is False
    key = (await site.status())["services"]["groq"]["keys"][0]
    assert (key["state"], key["note"]) == ("ready", note)
    assert described(await post(site, "note", json=named))["note"] == ""
    for path, body in (
        ("disable", named | {"for_s": 0}),
        ("disable", named | {"for_s": True}),
        ("disable", named | {"for_s": 2_592_001}),
        ("note", named | {"note": "x" * 201}),
        ("note", {"service": "groq"}),
        ("enable", {}),
    ):
        assert (await post(site, path, json=body)).status_code == 400, body


async def test_a_key_is_disabled_once_with_the_reason_given(serve: Serve) -> None:
    site = await serve()
    key_id = site.keys["groq"][1].id
    body = {"service": "groq", "key": key_id, "reason": "leaked on a slide"}
    expected = {"disabled": key_id, "left_ms": None, "by": "ada"}
    before = {"left_ms": None, "by": "flower ada", "reason": "leaked on a slide"}
    reply = described(await post(site, "disable", json=body))
    assert reply == expected | {"newly": True, "before": None}
    for again in (body, body | {"for_s": 60, "reason": "launch"}):
        reply = described(await post(site, "disable", json=again))
        assert reply == expected | {"newly": False, "before": before}
    key = await site.key("groq", 1)
    assert (key["state"], key["reason"], key["left_ms"]) == ("disabled", "leaked on a slide", None)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own
async def test_a_job_is_cancelled_without_a_worker_and_one_that_had_ended_stays_unchanged(
    serve: Serve,
) -> None:
    site = await serve()
    backend = site.app.capp.backend

    async def cancel(job: str) -> dict[str, Any]:
        answer = await site.client.post(f"/api/admin/jobs/{job}/cancel", auth=LOGIN)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    assert await cancel("job-1") == {"job": "job-1", "outcome": "cancelled", "by": "ada"}
    assert await asyncio.to_thread(backend.get_state, "job-1") == "REVOKED"
    assert 0 < await site.redis.ttl("kw:cancelled:job-1") <= 30 * 86_400
    await asyncio.to_thread(backend.store_result, "job-2", {"text": "x"}, "SUCCESS")
    assert (await cancel("job-2"))["outcome"] == "SUCCESS"
    assert not await site.redis.exists("kw:cancelled:job-2")
    [entry] = described(await site.client.get(f"{PREFIX}/audit", auth=LOGIN))["entries"]
    assert [entry[name] for name in ("service", "event", "scope", "name", "by")] == [
        "",
        "cancelled",
        "job",
        "job-1",
        "flower ada",
    ]
    refused = await site.client.post(
        "/api/admin/jobs/job-3/cancel", json={"service": "groq"}, auth=LOGIN
    )
    assert (refused.status_code, refused.json()["error"]) == (400, "unknown_field")
    assert refused.json()["message"] == "Unknown field 'service'; this address takes no fields."


async def test_a_cancel_whose_broker_is_down_is_stored_and_says_so(serve: Serve) -> None:
    site = await serve(environ={"CELERY_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"})
    conf = site.app.capp.conf
    conf.broker_transport_options = conf.broker_transport_options | {"max_retries": 0}
    async with site.redis.pubsub() as worker:
        await worker.subscribe("kw:cancelled")
        assert await worker.get_message(timeout=5)
        answer = await site.client.post("/api/admin/jobs/job-1/cancel", auth=LOGIN)
    assert described(answer) == {"job": "job-1", "outcome": "perhaps_running", "by": "ada"}
    assert await site.redis.exists("kw:cancelled:job-1")
    [entry] = described(await site.client.get(f"{PREFIX}/audit", auth=LOGIN))["entries"]
    assert (entry["event"], entry["name"], entry["by"]) == ("cancelled", "job-1", "flower ada")
