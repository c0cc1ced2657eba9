"""The admin endpoints for dead letters, checked against `docs/openapi.yaml`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from config.current import get_settings
from sandbox.redis import EmbeddedRedis, free_port
from tests.integration.dashboard.dashboard_site import LOGIN, OPENAPI, TOKEN, Serve, Site, until
from tests.integration.deadletters import dead_letters_written
from worker.dashboard import dead_letters
from worker.deadletters import DeadLetter, DeadLetters, Message

ADDRESS = "/api/admin/dead-letters"
SECRET = "canary-9310 of a mail"
DAY_MS = 86_400_000


def letter(number: int = 1, **changes: Any) -> DeadLetter:
    """A dead letter of a job that made one call."""
    attempts = ({"at_ms": 5, "key": "gsk_abc123...", "code": "rate_limit", "in_doubt": False},)
    return dead_letters_written.letter(number, **{"attempts": attempts} | changes)


def email(number: int = 1, **changes: Any) -> DeadLetter:
    return letter(
        number, **{"task": "tasks.email.send", "queue": "email", "service": "resend"} | changes
    )


async def put(
    site: Site,
    *letters: DeadLetter,
    message: Message | None = Message(kwargs={"prompt": SECRET}),  # noqa: B008 - frozen
) -> None:
    store = DeadLetters.of(site.redis, get_settings())
    for letter in letters:
        await store.put(letter, message.text() if message else "")


async def ask(site: Site, path: str = "", *, expected: int = 200, **body: Any) -> Any:
    """GET with a query, or POST if there is a path; check the response against the description."""
    if path:
        answer = await site.client.post(f"{ADDRESS}/{path}", json=body, auth=LOGIN)
    else:
        answer = await site.client.get(ADDRESS, params=body, auth=LOGIN)
    assert answer.status_code == expected, answer.text
    operation = OPENAPI["paths"][ADDRESS + (f"/{path}" if path else "")]["post" if path else "get"]
    described = operation["responses"][str(expected)]
    if "$ref" in described:
        described = OPENAPI["components"]["responses"][described["$ref"].rpartition("/")[2]]
    schema = described["content"]["application/json"]["schema"] | {
        "components": OPENAPI["components"]
    }
    Draft202012Validator(schema).validate(answer.json())
    assert SECRET not in answer.text
    return answer.json()


async def queued(site: Site, queue: str) -> list[str]:
    return [
        json.loads(text)["headers"]["id"]
        for text in reversed(await site.redis.lrange(queue, 0, -1))
    ]


async def test_letters_are_listed_by_kind_and_without_their_arguments(serve: Serve) -> None:
    site = await serve()
    old_ms = round(time.time() * 1000) - DAY_MS
    await put(site, letter(1), email(2, kind="unknown", doubt_ms=old_ms), letter(3, kind="poison"))
    listing = await ask(site)
    assert [letter["id"] for letter in listing["dead_letters"]] == ["job-3", "job-2", "job-1"]
    assert [letter["needs_force"] for letter in listing["dead_letters"]] == [False, True, False]
    assert (listing["total"], listing["by_service"]["resend"]) == (3, {"unknown": 1})
    assert [
        letter["id"] for letter in (await ask(site, service="groq", kind="failed"))["dead_letters"]
    ] == ["job-1"]
    assert [letter["id"] for letter in (await ask(site, limit=1))["dead_letters"]] == ["job-3"]
    assert (await ask(site, before=old_ms))["dead_letters"] == []
    await site.app.poller.fresh_state(force=True)
    assert (await site.status())["dead_letters"]["total"] == 3


async def test_letters_are_searched_by_pages_and_changed_by_their_ids(serve: Serve) -> None:
    site = await serve()
    now_ms = round(time.time() * 1000)
    store = DeadLetters.of(site.redis, get_settings())
    store._now_ms = lambda: now_ms  # all at one instant, as after a crash
    message = Message(kwargs={"prompt": SECRET}).text()
    for number in range(1, 8):
        await store.put(letter(number, reason="Odd" if number % 2 else "Even"), message)

    async def listed(**query: Any) -> tuple[list[str], Any]:
        listing = await ask(site, **query)
        return [letter["id"] for letter in listing["dead_letters"]], listing["next_before"]

    seen: list[str] = []
    page, cursor = await listed(limit=3, search="odd")
    while cursor is not None:
        seen += page
        page, cursor = await listed(limit=3, search="odd", before=cursor)
    assert sorted(seen + page) == ["job-1", "job-3", "job-5", "job-7"]
    for text, ids in (("JOB-4", ["job-4"]), ("gsk_abc123", 7), (SECRET, []), ("rate_limit", 7)):
        page, _ = await listed(search=text)
        assert page == ids or len(page) == ids, text
    dropped = await ask(site, "drop", ids=["job-1", "job-2", "gone"])
    assert dropped["dropped"] == 2
    assert sorted((await ask(site, "replay", search="even"))["replayed"]) == ["job-4", "job-6"]
    for ids in ([], ["x"] * 101, "job-1", [1]):
        await ask(site, "drop", ids=ids, expected=400)
    await ask(site, "drop", ids=["gone"], expected=404)
    await ask(site, "drop", ids=["job-3"], search="odd", expected=400)


async def test_a_change_by_id_leaves_a_letter_that_was_rewritten_since(serve: Serve) -> None:
    site = await serve()
    await put(site, letter(1), letter(2))
    seen = {letter["id"]: letter["at_ms"] for letter in (await ask(site))["dead_letters"]}
    before = max(seen.values()) + 1
    store = DeadLetters.of(site.redis, get_settings())
    store._now_ms = lambda: before + 5
    await store.put(letter(1, reason="newer"), Message().text())
    for path in ("drop", "replay"):
        error = await ask(site, path, expected=404, id="job-1", before=before)
        assert error["error"] == "unknown_dead_letter"
        assert "has died again since" in error["message"]
        await ask(site, path, expected=404, ids=["job-1"], before=before)
    assert (await ask(site, "drop", ids=["job-1", "job-2"], before=before))["dropped"] == 1
    assert [letter["reason"] for letter in (await ask(site))["dead_letters"]] == ["newer"]
    assert (await ask(site, "replay", id="job-1", before=before + 6))["replayed"] == ["job-1"]


async def test_a_hundred_long_ids_fit_into_a_body_and_a_larger_one_is_refused_with_advice(
    serve: Serve,
) -> None:
    site = await serve()
    ids = [f"{number:03}".ljust(200, '"') for number in range(100)]
    await put(site, *(replace(letter(), id=job_id) for job_id in ids))
    assert (await ask(site, "drop", ids=ids))["dropped"] == 100
    error = await ask(site, "drop", expected=413, ids=["x" * 70_000])
    assert error["message"] == "The body must not exceed 65536 bytes: name fewer ids at once."


async def test_a_replay_runs_the_job_deletes_its_letter_and_is_audited(serve: Serve) -> None:
    site = await serve()
    await put(site, letter(1), letter(2))
    assert await ask(site, "replay", id="job-1") == {
        "replayed": ["job-1"],
        "refused": [],
        "more": False,
        "by": "ada",
    }
    assert await queued(site, "ai") == ["job-1"]
    assert (await site.status())["dead_letters"]["total"] == 1  # at once
    assert await ask(site, "drop", id="job-2") == {"dropped": 1, "more": False, "by": "ada"}
    answer = await site.client.get(
        "/api/admin/api-keys/audit", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert [
        (entry["service"], entry["event"], entry["name"], entry["by"])
        for entry in answer.json()["entries"]
    ] == [
        ("groq", "dropped", "job-2", "flower ada"),
        ("groq", "replayed", "job-1", "flower ada"),
    ]


async def test_an_email_that_may_arrive_twice_needs_force(serve: Serve) -> None:
    site = await serve()
    await put(site, email(1, doubt_ms=5), email(2))
    reply = await ask(site, "replay", service="resend")
    assert reply["replayed"] == ["job-2"]
    assert [letter["id"] for letter in reply["refused"]] == ["job-1"]
    assert (await ask(site, "replay", id="job-1", force=True))["replayed"] == ["job-1"]


async def test_one_request_changes_a_limited_number_and_says_that_there_are_more(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_CHANGED", 3)
    site = await serve()
    await put(site, *(letter(number) for number in range(1, 8)))
    reply = await ask(site, "replay", all=True)
    assert (len(reply["replayed"]), reply["more"]) == (3, True)
    assert await ask(site, "drop", all=True) == {"dropped": 3, "more": True, "by": "ada"}
    assert await ask(site, "drop", all=True) == {"dropped": 1, "more": False, "by": "ada"}


# The request, the status of its refusal, and the error.
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("replay", {}, 400, "bad_request"),  # an empty body must not mean all jobs
    ("drop", {}, 400, "bad_request"),
    ("drop", {"id": "job-1", "all": True}, 400, "bad_request"),  # two selections at once
    ("drop", {"id": "job-1", "kind": "failed"}, 400, "bad_request"),
    ("drop", {"all": False}, 400, "bad_request"),
    ("drop", {"all": 1}, 400, "bad_request"),
    ("drop", {"id": "job-1", "force": True}, 400, "unknown_field"),
    ("replay", {"id": "job-1", "force": "yes"}, 400, "bad_request"),
    ("replay", {"id": ["job-1"]}, 400, "bad_request"),
    ("replay", {"id": ""}, 400, "bad_request"),
    ("replay", {"id": "x" * 201}, 400, "bad_request"),
    ("replay", {"id": "of nobody"}, 404, "unknown_dead_letter"),
    ("replay", {"id": "job-9"}, 404, "unknown_dead_letter"),
    ("replay", {"kind": "weird"}, 400, "bad_request"),
    ("replay", {"service": "mistral"}, 404, "unknown_service"),
    ("replay", {"before": "1"}, 400, "bad_request"),
    ("replay", {"before": True}, 400, "bad_request"),
    ("replay", {"before": 10**15}, 400, "bad_request"),
    ("", {"limit": "501"}, 400, "bad_request"),
    ("", {"limit": "-1"}, 400, "bad_request"),
    ("", {"before": "yesterday"}, 400, "bad_request"),
    ("", {"id": "job-1"}, 400, "unknown_field"),
    ("", {"kind": "weird"}, 400, "bad_request"),
]


async def test_an_invalid_request_is_refused_and_changes_nothing(serve: Serve) -> None:
    site = await serve()
    await put(site, letter(1))
    for path, body, expected, code in REFUSED:
        assert (await ask(site, path, expected=expected, **body))["error"] == code, (path, body)
        assert (await ask(site))["total"] == 1, (path, body)
    assert await queued(site, "ai") == []


async def test_only_administrators_get_in_and_only_if_changes_are_allowed(serve: Serve) -> None:
    site = await serve(read_only=True)
    await put(site, letter(1))
    assert (await site.client.get(ADDRESS)).status_code == 401
    assert len((await ask(site))["dead_letters"]) == 1
    for path in ("replay", "drop"):
        assert (await site.client.post(f"{ADDRESS}/{path}", json={"all": True})).status_code == 401
        assert (await ask(site, path, expected=403, all=True))["error"] == "read_only"
        from_elsewhere = {"Origin": "https://evil.example"}
        answer = await site.client.post(
            f"{ADDRESS}/{path}", json={"all": True}, auth=LOGIN, headers=from_elsewhere
        )
        assert (answer.status_code, answer.json()["error"]) == (403, "wrong_origin")
    assert (await ask(site))["total"] == 1


async def test_letters_show_in_the_metrics(serve: Serve) -> None:
    site = await serve()
    await put(site, email(1, kind="expired"))
    await until(
        lambda: site.client.get("/metrics"),
        lambda answer: 'keywheel_dead_letters{kind="expired",service="resend"} 1.0' in answer.text,
    )


async def test_a_broker_that_is_down_costs_no_letter(serve: Serve) -> None:
    site = await serve()
    await put(site, letter(1))
    site.app.capp.conf.broker_url = f"redis://127.0.0.1:{free_port()}/0"
    site.app.capp.conf.broker_transport_options = {"socket_connect_timeout": 1}
    site.app.capp.conf.task_publish_retry_policy = {"max_retries": 0}
    assert (await ask(site, "replay", expected=503, id="job-1"))["error"] == "broker_unreachable"
    assert (await ask(site))["total"] == 1


async def test_without_redis_the_answer_is_503(serve: Serve, tmp_path: Path) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        site = await serve(environ={"REDIS_URL": server.url})
        server.stop()
        for path in ("", "replay", "drop"):
            error = await ask(site, path, expected=503, **({"all": True} if path else {}))
            assert error["error"] == "redis_unreachable"
