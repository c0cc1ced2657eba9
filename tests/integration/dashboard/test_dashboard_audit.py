"""The audit trail, as the admin endpoint shows it."""

from typing import Any

from tests.integration.dashboard.dashboard_site import (
    LOGIN,
    PREFIX,
    Serve,
    described,
    post,
    until,
)


async def test_changes_by_flowers_own_api_are_audited(serve: Serve) -> None:
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

    entries = await until(audit, lambda listed: len(listed) == 2)
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


async def test_the_actions_of_people_alone_are_read_page_by_page(serve: Serve) -> None:
    site = await serve()
    # Entries alternate between disabled and enabled, with many others between.
    for entry in range(5):
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
    assert latest["entries"][0]["event"] == "cancelled", (
        "the latest entry of all streams comes first"
    )
