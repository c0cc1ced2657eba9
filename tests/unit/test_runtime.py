"""The objects that the jobs of a process share: made by the settings, closed with the process."""

import asyncio
import base64
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from config.keys import Discovery, discover_keys
from config.services import SERVICES
from config.settings import Settings, settings_from
from tests.unit.sample_keys import GROQ, GROQ_2, RESEND
from worker import runtime as runtime_module
from worker.keypool import KeyPool
from worker.providers import registry
from worker.providers.drift import Drift
from worker.providers.groq.client import Groq
from worker.providers.resend.client import Resend
from worker.runtime import open_runtime
from worker.streams import StreamWriter, writer
from worker.usage import UsageCounter

NOBODY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:2/0", NOBODY])
async def test_a_runtime_closes_its_writers_before_it_closes_redis(
    monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    closed: list[str] = []
    parts = ((StreamWriter, "close"), (Drift, "close"), (UsageCounter, "close"))
    for kind, name in (*parts, (Groq, "close"), (Resend, "close"), (Redis, "aclose")):

        async def note(*_: Any, kind: type = kind) -> None:
            closed.append(kind.__name__)

        monkeypatch.setattr(kind, name, note)
    settings = Settings(redis_url=NOBODY, broker_url=broker)
    await open_runtime(settings, {name: Discovery((), ()) for name in SERVICES}).close()
    redis = ["Redis"] if broker == NOBODY else ["Redis", "Redis"]
    assert closed == ["Groq", "Resend", "StreamWriter", "Drift", "UsageCounter", *redis]


SECRET = base64.b64encode(b"x" * 24).decode()
UNUSUAL = {
    "REDIS_URL": NOBODY,
    "CELERY_BROKER_URL": "redis://127.0.0.1:2/0",
    "KEYWHEEL_NAMESPACE": "ours",
    "KEYWHEEL_GROQ_TIMEOUT_S": "7",
    "KEYWHEEL_GROQ_COOLDOWN_S": "3",
    "KEYWHEEL_GROQ_LIMITS": "rpm=30,tpm=6000",
    "KEYWHEEL_RESEND_TIMEOUT_S": "11",
    "KEYWHEEL_RESEND_COOLDOWN_S": "90",
    "KEYWHEEL_WORKER_LEASE_S": "44",
    "KEYWHEEL_CHECK_KEYS_S": "555",
    "KEYWHEEL_EMAIL_AMBIGUITY": "at_least_once",
    "KEYWHEEL_DEAD_LETTERS_MB": "3",
    "KEYWHEEL_NOTIFY_HOSTS": "hooks.example.com",
    "KEYWHEEL_NOTIFY_SECRET": f"whsec_{SECRET},whsec_{SECRET}",
    "GROQ_BASE_URL": "http://127.0.0.1:3",
    "GROQ_MODEL": "one,two",
}


def discovered(environ: dict[str, str]) -> dict[str, Discovery]:
    return {name: discover_keys(name, environ) for name in SERVICES}


async def test_the_parts_of_a_process_are_as_the_settings_describe_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: dict[str, dict[str, Any]] = {}
    for service, builder in registry.BUILDERS.items():

        def build(url: str, *, service: str = service, make: Any = builder, **options: Any) -> Any:
            built[service] = {"url": url} | options
            return make(url, **options)

        monkeypatch.setattr(registry, "BUILDERS", {**registry.BUILDERS, service: build})
    settings = settings_from(UNUSUAL)
    runtime = open_runtime(settings, discovered({"GROQ_API_KEY": GROQ, "RESEND_API_KEY": RESEND}))
    drift = runtime.drift.notice
    assert built.keys() == SERVICES.keys()
    assert {name: built[name] for name in ("groq", "resend")} == {
        "groq": {"url": "http://127.0.0.1:3", "timeout_s": 7.0, "notice": drift},
        "resend": {"url": "https://api.resend.com", "timeout_s": 11.0, "notice": drift},
    }
    groq, resend = runtime.pools["groq"], runtime.pools["resend"]
    assert [key.variable for key in (*groq.keys, *resend.keys)] == [
        "GROQ_API_KEY",
        "RESEND_API_KEY",
    ]
    for pool, lease_ms, limits, limit_ms, server_error_ms in (
        (groq, 44_000, 2, 3_000, 3_000),
        (resend, 52_000, 0, 90_000, 5_000),
    ):
        terms = json.loads(pool._terms)
        assert (terms["lease_ms"], terms["patience_ms"]) == (lease_ms, 5_000)
        assert len(terms["limits"]) == limits
        rests = pool._cooldowns
        assert (rests.limit_ms, rests.server_error_ms) == (limit_ms, server_error_ms)
        assert pool.names.root().startswith("{ours:")
    sender: Any = runtime.senders["resend"]
    assert sender.shared.at_least_once is True
    assert sender.shared.store._call_ms == 27_000
    assert runtime.senders["groq"] is runtime.rotations["groq"]
    assert runtime.demands.keys() == {service.queue for service in SERVICES.values()}
    assert runtime.streams.open("job", attempts=0).name == "ours:stream:job"
    assert runtime.cancellations.channel == "ours:cancelled"
    assert runtime.dead_letters.limits.total_bytes == 3_000_000
    assert runtime.dedupe_keys.record_of("task", "key").startswith("ours:")
    assert len(runtime.notifications._signers) == 2
    assert [host.name for host in runtime.notifications._hosts] == ["hooks.example.com"]
    checks = runtime.key_checks
    assert checks._every_s == 555
    assert checks._models["groq"] == ("one", "two")
    assert checks._pools.keys() == checks._checkers.keys() == set(SERVICES)
    ownership: Any = runtime.ownership
    assert (ownership._longest_s, ownership._broker) == (22, runtime.broker)
    for rotation in runtime.rotations.values():
        assert rotation.usage is runtime.usage
        assert rotation.before_call == ownership.end_if_lost
        assert rotation.waiting.overflow.recall == runtime.wake_jobs
    monkeypatch.setattr(writer, "CLOSE_TIMEOUT_S", 0.01)  # there is no Redis
    await runtime.close()


async def test_a_reload_serves_from_the_new_keys_and_wakes_jobs_that_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[tuple[str, ...]] = []

    async def forget(pool: KeyPool) -> None:
        done.append(("forget", pool.service, *(key.variable for key in pool.keys)))

    async def wake(_: Any, service: str) -> None:
        done.append(("wake deferred", service))

    monkeypatch.setattr(KeyPool, "forget_unfit", forget)
    monkeypatch.setattr(runtime_module.Runtime, "wake_deferred", wake)
    before = {"GROQ_API_KEY": GROQ, "RESEND_API_KEY": RESEND}
    runtime = open_runtime(settings_from(UNUSUAL), discovered(before))
    for service, rotation in runtime.rotations.items():
        monkeypatch.setattr(
            rotation.waiting, "wake", lambda service=service: done.append(("wake", service))
        )
    after = discovered({"GROQ_API_KEY": GROQ, "GROQ_API_KEY_2": GROQ_2})
    monkeypatch.setattr(runtime_module, "load_keys", after.__getitem__)
    discoveries = await runtime.reload_keys()
    assert discoveries == dict.fromkeys(SERVICES, 0) | {"groq": 2}
    assert [step for step in done if step[1] in {"groq", "resend"}] == [
        ("forget", "groq", "GROQ_API_KEY", "GROQ_API_KEY_2"),
        ("wake", "groq"),
        ("forget", "resend"),
        ("wake", "resend"),
        ("wake deferred", "groq"),
    ]
    await runtime.close()


async def test_a_worker_publishes_which_keys_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[Any] = []

    async def publish(redis: Any, names: Any, keys: Any) -> None:
        published.append((redis, names, [key.variable for key in keys]))

    monkeypatch.setattr(runtime_module, "publish_keys", publish)
    runtime = open_runtime(settings_from(UNUSUAL), discovered({"GROQ_API_KEY": GROQ}))
    await runtime.publish_keys()
    assert published == [
        (runtime.redis, pool.names, ["GROQ_API_KEY"] if service == "groq" else [])
        for service, pool in runtime.pools.items()
    ]
    await runtime.close()


async def test_the_first_job_opens_the_runtime_of_its_loop_and_announces_its_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    discoveries, announced, ends = discovered({"GROQ_API_KEY": GROQ}), list[Any](), list[Any]()
    monkeypatch.setattr(runtime_module, "load_keys", discoveries.__getitem__)
    monkeypatch.setattr(runtime_module, "announce", announced.append)
    monkeypatch.setattr(runtime_module, "get_settings", lambda: settings_from(UNUSUAL))
    monkeypatch.setattr(runtime_module.lifespan, "on_shutdown", ends.append)
    loop = asyncio.get_running_loop()
    assert runtime_module.Runtime.of(loop) is None
    runtime = runtime_module.Runtime.current()
    assert runtime_module.Runtime.current() is runtime_module.Runtime.of(loop) is runtime
    assert announced == [discoveries[service] for service in SERVICES]
    assert ends == [runtime.close]
    await runtime.close()
