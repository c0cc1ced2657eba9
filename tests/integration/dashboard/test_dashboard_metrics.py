"""Flower's `/metrics` with our metrics."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sandbox.redis import EmbeddedRedis
from tests.integration.dashboard.dashboard_site import LOGIN, Serve, Site, secret, until

LABELS = {"service", "state", "key", "outcome", "queue", "le", "kind", "priority"}


async def scrape(site: Site) -> dict[tuple[str, ...], float]:
    """Return our samples: name and label values, in order of the labels' names → value."""
    answer = await site.client.get("/metrics")
    assert answer.status_code == 200
    assert "flower_" in answer.text  # Flower's own metrics are still there
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            if sample.name.startswith("keywheel_"):
                assert set(sample.labels) <= LABELS
                samples[sample.name, *(value for _, value in sorted(sample.labels.items()))] = (
                    sample.value
                )
    return samples


async def test_metrics_of_keys_and_queues_need_no_login_and_hold_no_more_than_they_must(
    serve: Serve,
) -> None:
    site = await serve(environ={"GROQ_ACCOUNT": "acme-account"})
    await site.disable()
    await site.pools["resend"].disable(None, by="ada")
    await site.redis.lpush("email", "{}", "{}")

    async def look() -> dict[tuple[str, ...], float]:
        return await scrape(site)

    samples = await until(
        look,
        lambda seen: (
            seen.get(("keywheel_keys", "groq", "disabled")) == 1
            and seen.get(("keywheel_queue_length", "email", "resend")) == 2
        ),
    )
    assert samples["keywheel_up",] == 1
    assert samples["keywheel_keys", "groq", "ready"] == 2
    # All keys of one service are paused; of the other service, one key is disabled.
    assert samples["keywheel_service_paused", "resend"] == 1
    assert samples["keywheel_service_paused", "groq"] == 0
    assert samples["keywheel_key_ready", site.keys["groq"][0].id, "groq"] == 0
    assert samples["keywheel_calls_total", site.keys["groq"][1].id, "accepted", "groq"] == 0
    assert samples["keywheel_drain_seconds", "email", "resend"] == float("inf")
    assert samples["keywheel_deferrals_total", "groq"] == 0
    assert samples["keywheel_dead_letters", "poison", "other"] == 0
    text = (await site.client.get("/metrics")).text
    for hidden in (
        secret("groq", 1),
        site.keys["groq"][0].label,
        "acme-account",
        "GROQ_API_KEY",
        "by hand",
        *LOGIN,
    ):
        assert hidden not in text


async def test_collecting_metrics_sends_no_command_to_redis(serve: Serve) -> None:
    site = await serve()
    await until(lambda: scrape(site), lambda seen: ("keywheel_keys", "groq", "ready") in seen)
    site.app.poller.stop()
    before = await site.redis.info("commandstats")
    for _ in range(20):
        await scrape(site)
    after = await site.redis.info("commandstats")

    def calls(stats: Any) -> int:
        return sum(counts["calls"] for name, counts in stats.items() if "info" not in name)

    assert calls(after) == calls(before)


async def test_without_redis_the_metrics_still_come_and_say_so(
    serve: Serve, tmp_path: Path
) -> None:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        site = await serve(environ={"REDIS_URL": server.url})
        await until(lambda: scrape(site), lambda seen: seen["keywheel_up",] == 1)
        server.stop()
        samples = await until(lambda: scrape(site), lambda seen: seen["keywheel_up",] == 0)
        assert not [name for name, *_ in samples if name == "keywheel_keys"]
        server.start()
        await until(lambda: scrape(site), lambda seen: seen["keywheel_up",] == 1)


async def test_queues_that_cannot_be_counted_are_not_shown_as_empty(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = await serve()
    await until(lambda: scrape(site), lambda seen: seen["keywheel_up",] == 1)

    def refuse() -> None:
        raise OSError

    monkeypatch.setattr(site.app.poller._watch, "poll", refuse)
    samples = await until(lambda: scrape(site), lambda seen: seen["keywheel_up",] == 0)
    assert not [
        name for name, *_ in samples if name in {"keywheel_queue_length", "keywheel_jobs_waiting"}
    ]
    assert samples["keywheel_keys", "groq", "ready"] == 3
    queue = (await site.status())["services"]["groq"]["queue"]
    assert (queue["known"], queue["drain_s"]) == (False, None)
    assert caplog.text.count("cannot count the queues (OSError)") == 1


async def test_deferrals_are_counted_as_flower_receives_their_events(serve: Serve) -> None:
    site = await serve()

    def event(kind: str, uuid: str, **fields: Any) -> dict[str, Any]:
        return {"type": kind, "uuid": uuid, "hostname": "w1", "timestamp": 0.0,
            "local_received": 0.0, "clock": 1,
                "utcoffset": 0, "pid": 1, **fields}  # fmt: skip

    def retried(uuid: str, name: str, waits: Any) -> dict[str, Any]:
        return event("task-retried", uuid, name=name, countdown_s=1.5, waits=waits)

    events = [
        event("task-received", "a", name="tasks.ai.complete"),
        retried("a", "tasks.ai.complete", {"kind": "key", "code": "rpm"}),
        retried("b", "tasks.email.send", {"kind": "failure", "code": "failure"}),  # not a deferral
        retried("c", "tasks.other", {"kind": "key", "code": "rpm"}),  # not a task of our services
        event("task-retried", "d"),  # from a worker of another version
    ]
    for sent in events:
        site.app.events.on_event(sent)
    samples = await until(
        lambda: scrape(site), lambda seen: seen["keywheel_deferrals_total", "groq"] == 1
    )
    assert samples["keywheel_deferrals_total", "resend"] == 0
    assert samples["keywheel_wait_seconds_sum", "groq"] == 1.5
    assert samples["keywheel_wait_seconds_bucket", "1.0", "groq"] == 0
    assert samples["keywheel_wait_seconds_bucket", "2.0", "groq"] == 1
