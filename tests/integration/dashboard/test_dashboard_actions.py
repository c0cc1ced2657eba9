"""What people do by the admin endpoints: check, reset, disable, cancel.

And where it is written down.
"""

import asyncio
import json
from typing import Any

import pytest

from config.services import SERVICES
from sandbox.process import Sandbox
from sandbox.redis import free_port
from tests.integration.dashboard.dashboard_site import (
    BEARER,
    LOGIN,
    PREFIX,
    TOKEN,
    Serve,
    described,
    post,
    secret,
    until,
)


async def test_a_check_shows_what_the_providers_say_about_each_key(serve: Serve) -> None:
    with Sandbox(groq_keys=0, resend_keys=0, accept_unknown_keys=True) as sandbox:
        urls = {"GROQ_BASE_URL": sandbox.groq_base_url, "RESEND_API_URL": sandbox.resend_api_url}
        site = await serve(environ=urls)
        told = described(await post(site, "check", json={}))
        assert [one["state"] for one in told["keys"]] == ["alive"] * 5
        assert told["keys"][3]["limits"] == {"epd": 100, "epmo": 3_000, "rps": 2}
        assert told["problems"] == []
        sandbox.control("revoke", key=secret("groq", 1))
        told = described(await post(site, "check", json={"service": "groq"}))
        assert [one["state"] for one in told["keys"]] == ["dead", "alive", "alive"]
        assert told["keys"][0]["detail"] == "Invalid API Key (HTTP 401)"
        assert "is not accepted: Invalid API Key" in told["problems"][0]
        assert secret("groq", 1) not in json.dumps(told)
        second = {"service": "groq", "key": site.keys["groq"][1].id}
        told = described(await post(site, "check", json=second))
        assert ([one["id"] for one in told["keys"]], told["problems"]) == ([second["key"]], [])
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
    one = {"service": "groq", "key": site.keys["groq"][0].id}
    done = await post(site, "disable", json=one | {"reason": "launch", "for_s": 3_600})
    assert described(done)["newly"] is True
    key = (await site.status())["services"]["groq"]["keys"][0]
    assert (key["state"], key["reason"]) == ("disabled", "launch")
    assert 3_590_000 < key["left_ms"] <= 3_600_000
    pasted = f"see {secret('groq', 2)}"
    note = described(await post(site, "note", json=one | {"note": pasted}))["note"]
    assert note == f"see {site.keys['groq'][1].label}", "no secret is kept"
    assert described(await post(site, "enable", json=one)) == {
        "enabled": one["key"],
        "newly": True,
        "by": LOGIN[0],
    }
    assert described(await post(site, "enable", json=one))["newly"] is False
    key = (await site.status())["services"]["groq"]["keys"][0]
    assert (key["state"], key["note"]) == ("ready", note)
    assert described(await post(site, "note", json=one))["note"] == ""
    for path, body in (
        ("disable", one | {"for_s": 0}),
        ("disable", one | {"for_s": True}),
        ("disable", one | {"for_s": 2_592_001}),
        ("note", one | {"note": "x" * 201}),
        ("note", {"service": "groq"}),
        ("enable", {}),
    ):
        assert (await post(site, path, json=body)).status_code == 400, body


# Whose credentials, and what the audit trail calls them.
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"auth": LOGIN}, "ada"),  # a person
        ({"auth": None, "headers": BEARER}, "token"),  # a machine
        (
            {"auth": None, "headers": {"Authorization": f"bearer  {TOKEN}"}},
            "token",
        ),  # the scheme's case is free
    ],
)
async def test_a_reset_brings_a_disabled_key_back_and_says_who_did_it(
    serve: Serve, options: dict[str, Any], name: str
) -> None:
    site = await serve()
    key_id = await site.disable()
    assert (await site.key("groq"))["state"] == "disabled"
    answer = await post(site, "reset", json={"service": "groq", "key": key_id}, **options)
    assert answer.status_code == 200
    back = {"scope": "key", "name": site.keys["groq"][0].label, "key": key_id, "state": "disabled",
        "reason": "by hand",
            "disabled_by": "test"}  # fmt: skip
    assert described(answer) == {
        "reset": {"groq": 1}, "brought_back": {"groq": [back]}, "left_disabled": {"groq": []},
        "by": name,
    }  # fmt: skip
    # Without any wait: the change is in the very next answer.
    assert (await site.status())["services"]["groq"]["keys"][0]["state"] == "ready"
    newest = (await site.pools["groq"].audit())[0]
    assert (newest["event"], newest["by"]) == ("reset", f"flower {name}")


# What the body says, and which services are reset.
@pytest.mark.parametrize(
    ("options", "services"),
    [
        ({}, set(SERVICES)),  # nothing at all
        ({"json": {}}, set(SERVICES)),
        ({"json": {"service": "groq"}}, {"groq"}),
        ({"json": {"service": "resend"}}, {"resend"}),
        # what our own page sends, from where it sends it
        (
            {"json": {}, "headers": {"Sec-Fetch-Site": "same-origin", "Origin": "{url}"}},
            set(SERVICES),
        ),
        # a person who types the address
        ({"json": {}, "headers": {"Sec-Fetch-Site": "none"}}, set(SERVICES)),
        (
            {
                "content": b' {"service": "groq"} ',
                "headers": {"Content-Type": 'application/json; charset="UTF-8"'},
            },
            {"groq"},
        ),
    ],
)
async def test_a_reset_covers_what_was_asked_for(
    serve: Serve, options: dict[str, Any], services: set[str]
) -> None:
    site = await serve()
    refused = {"groq", "resend"}  # those of which the site has keys
    for service in refused:
        await site.refuse(service)
    headers = {
        name: value.format(url=site.url) for name, value in options.get("headers", {}).items()
    }
    told = described(await post(site, "reset", **(options | {"headers": headers})))
    assert told["reset"] == {service: int(service in refused) for service in services}
    await site.app.poller.fresh_state(force=True)
    for service, view in (await site.status())["services"].items():
        assert view["summary"]["disabled"] == int(service in refused - services)


# What the body says, and whether keys that a person disabled come back.
@pytest.mark.parametrize(
    ("body", "comes_back"),
    [
        ({}, False),
        ({"include_disabled": False}, False),
        ({"include_disabled": True}, True),
        ({"include_disabled": []}, False),
        ({"include_disabled": ["of-another-key"]}, False),
        ({"include_disabled": ["{key}"]}, True),
        ({"service": "groq", "key": "{key}"}, True),
        ({"service": "groq", "key": "{key}", "include_disabled": []}, False),
    ],
)
async def test_a_reset_leaves_out_what_a_person_disabled_unless_it_says_otherwise(
    serve: Serve, body: dict[str, Any], *, comes_back: bool
) -> None:
    site = await serve()
    key_id = await site.disable()
    content = json.dumps(body).replace("{key}", key_id)
    headers = {"Content-Type": "application/json"}
    told = described(await post(site, "reset", content=content, headers=headers))
    assert (
        [block["key"] for block in told["left_disabled"]["groq"]] == [] if comes_back else [key_id]
    )
    assert told["reset"]["groq"] == int(comes_back)
    assert (await site.key("groq"))["state"] == ("ready" if comes_back else "disabled")


async def test_a_key_is_disabled_once_with_the_reason_given(serve: Serve) -> None:
    site = await serve()
    key_id = site.keys["groq"][1].id
    body = {"service": "groq", "key": key_id, "reason": "leaked on a slide"}
    said = {"disabled": key_id, "left_ms": None, "by": "ada"}
    before = {"left_ms": None, "by": "flower ada", "reason": "leaked on a slide"}
    told = described(await post(site, "disable", json=body))
    assert told == said | {"newly": True, "before": None}
    for again in (body, body | {"for_s": 60, "reason": "launch"}):
        told = described(await post(site, "disable", json=again))
        assert told == said | {"newly": False, "before": before}
    key = await site.key("groq", 1)
    assert (key["state"], key["reason"], key["left_ms"]) == ("disabled", "leaked on a slide", None)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own
async def test_a_job_is_cancelled_also_where_no_worker_runs_and_one_that_had_ended_stays_as_it_is(
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
    assert refused.json()["message"] == "Unknown field 'service'; this address takes none."


async def test_a_cancel_whose_broker_is_away_is_stored_and_says_so(serve: Serve) -> None:
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


async def test_what_people_change_by_flowers_own_api_is_written_down(serve: Serve) -> None:
    site = await serve(environ={"ADMIN_USERS": "ada"}, basic_auth=(":".join(LOGIN), "bob:pass"))
    answers = [
        (await site.client.post(path, auth=auth)).status_code
        for path, auth in (
            ("/api/task/revoke/job%201?terminate=true&signal=SIGKILL", LOGIN),
            ("/api/task/revoke/job-2", ("bob", "pass")),
            ("/api/worker/shutdown/unknown@host", LOGIN),
            ("/api/task/send-task/tasks.ai.complete", LOGIN),
            ("/api/task/revoke/job+3/a?queue=%ff", LOGIN),  # Flower itself does not read the queue
        )
    ]
    assert answers == [200, 403, 404, 200, 200]

    async def audit() -> Any:
        return described(await site.client.get(f"{PREFIX}/audit?by=people", auth=LOGIN))["entries"]

    entries = await until(audit, lambda found: len(found) == 2)
    assert [
        [entry[name] for name in ("event", "scope", "name", "reason", "by")] for entry in entries
    ] == [
        ["revoke", "job", "job+3/a", "queue=�", "flower ada"],
        ["revoke", "job", "job 1", "terminate=true, signal=SIGKILL", "flower ada"],
    ]


async def test_the_audit_trail_is_read_newest_first_across_services(serve: Serve) -> None:
    site = await serve()
    await site.disable("groq")
    await site.disable("resend")
    await post(site, "reset", json={"service": "groq"})
    assert (await site.client.get(f"{PREFIX}/audit?count=201", auth=LOGIN)).status_code == 400
    answer = await site.client.get(f"{PREFIX}/audit?count=2", auth=LOGIN)
    entries = described(answer)["entries"]
    assert [entry["event"] for entry in entries] == ["reset", "disabled"]
    assert entries[0]["at_ms"] >= entries[1]["at_ms"]


async def test_what_people_did_is_found_among_what_workers_did_page_by_page(serve: Serve) -> None:
    site = await serve()
    for entry in range(5):  # each is disabled and enabled in turn, with much between
        await site.disable("groq", entry % 3)
        await site.redis.xadd(
            "{kw:groq}:audit",
            {
                "at_ms": 1,
                "event": "cooled",
                "scope": "host",
                "name": "groq",
                "reason": "server_error",
                "until_ms": 2,
                "by": "a-task",
            },
        )
        await post(site, "reset", json={"service": "groq", "key": site.keys["groq"][entry % 3].id})
    query: str | None = f"{PREFIX}/audit?count=4&by=people"
    seen, pages = [], 0
    while query:
        page = described(await site.client.get(query, auth=LOGIN))
        assert len(page["entries"]) == min(4, 10 - len(seen))
        seen += page["entries"]
        pages += 1
        query = (
            page["next_before"] and f"{PREFIX}/audit?count=4&by=people&before={page['next_before']}"
        )
    assert [entry["event"] for entry in seen] == ["reset", "disabled"] * 5
    assert pages == 3
    assert {entry["name"] for entry in seen} == {key.label for key in site.keys["groq"]}
    assert {entry["scope"] for entry in seen} == {"key"}
    assert "flower ada" in {entry["by"] for entry in seen}
    all_of_them = described(await site.client.get(f"{PREFIX}/audit?count=200", auth=LOGIN))
    assert (len(all_of_them["entries"]), all_of_them["next_before"]) == (15, None)
    await site.redis.xadd(
        "{kw:people}:audit",
        {"event": "cancelled", "scope": "job", "name": "job-1", "reason": "", "by": "ann"},
    )
    latest = described(await site.client.get(f"{PREFIX}/audit?count=2", auth=LOGIN))
    assert latest["entries"][0]["event"] == "cancelled", "of all streams the latest comes first"


# How many keys each service has.
