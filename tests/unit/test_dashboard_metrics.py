"""Every sample of Flower's `/metrics` for a state whose numbers are all different."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from worker.dashboard.deferrals import Deferrals
from worker.dashboard.metrics import KeysCollector
from worker.dashboard.state import DashboardState, QueueView, ServiceView
from worker.deadletters import KINDS, OWNERS, Counts
from worker.keypool import KeyView
from worker.keypool.snapshot import BucketView
from worker.providers.drift import Seen


def key(name: str, state: str, base: int, *buckets: BucketView) -> KeyView:
    return KeyView(
        id=name, label=f"label-{name}", variable="V", account="acme", state=state, blocks=(),
        in_flight=base, calls=0, accepted=base + 1, refused=base + 2, faults=base + 3,
        rejected=base + 4, tokens=base + 5, used_ms=0, buckets=buckets,
    )  # fmt: skip


def bucket(remaining: float, limit: int) -> Any:
    return SimpleNamespace(remaining=remaining, limit=limit)


GROQ = [
    key("one", "ready", 10, bucket(30, 40), bucket(5, 10), bucket(0, 0)),
    key("two", "cooling", 20, bucket(-1, 10)),
    key("three", "disabled", 30),
]
RESEND = [key("four", "ready", 40)]


def state_of(*, known: bool = True) -> DashboardState:
    pools: dict[str, Any] = {
        name: SimpleNamespace(service=name, keys=keys, paused=name == "resend", now_ms=0)
        for name, keys in (("groq", GROQ), ("resend", RESEND))
    }
    ai = QueueView(
        "ai", ready=1, deferred=2, held=4, paused_workers=3, workers=5, clock_skew_s=0.25,
        oldest_s=7.5, oldest_bulk_s=8.5, known=known,
    )  # fmt: skip
    email = QueueView("email", ready=6, workers=4, clock_skew_s=0.5)
    return DashboardState(
        {
            "groq": ServiceView(pools["groq"], ai, rate=0.5, idle_s=9.5),
            "resend": ServiceView(pools["resend"], email, rate=0.0),
        },
        Counts({("groq", "poison"): 3}),
        evicts="allkeys-lru",
        unknown=(
            Seen("groq", "error_code", "a", 2, 1, 1),
            Seen("groq", "error_code", "b", 5, 1, 1),
        ),
    )


def samples(state: DashboardState | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return each sample by its name and the values of its labels, in order of their names."""
    monkeypatch.setattr(
        "worker.dashboard.metrics.servable_jobs",
        lambda pool, waiting, *, jobs_a_call: waiting * 1_000 + jobs_a_call + len(pool.keys),
    )
    poller: Any = SimpleNamespace(state=state)
    return {
        " ".join(
            [sample.name, *(value for _, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in KeysCollector(poller).collect()
        for sample in family.samples
    }


def test_each_number_of_a_state_is_the_sample_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    values = samples(state_of(), monkeypatch)
    letters = {
        name: values.pop(name) for name in list(values) if name.startswith("keywheel_dead_letters")
    }
    assert len(letters) == len(OWNERS) * len(KINDS), "all possible samples exist from the start"
    assert {name: value for name, value in letters.items() if value} == {
        "keywheel_dead_letters poison groq": 3
    }
    answers = {name: values.pop(name) for name in list(values) if "unknown_answers" in name}
    assert len(answers) > 2, "the samples exist from the start"
    assert {name: value for name, value in answers.items() if value} == {
        "keywheel_unknown_answers_total error_code groq": 7
    }
    assert values == {
        "keywheel_up": 1,
        "keywheel_redis_evicts": 1,
        "keywheel_keys groq ready": 1,
        "keywheel_keys groq cooling": 1,
        "keywheel_keys groq disabled": 1,
        "keywheel_keys resend ready": 1,
        "keywheel_keys resend cooling": 0,
        "keywheel_keys resend disabled": 0,
        "keywheel_in_flight groq": 60,
        "keywheel_in_flight resend": 40,
        "keywheel_key_ready one groq": 1,
        "keywheel_key_ready two groq": 0,
        "keywheel_key_ready three groq": 0,
        "keywheel_key_ready four resend": 1,
        **{
            f"keywheel_calls_total {name} {outcome} {service}": base + more
            for name, service, base in (
                ("one", "groq", 10),
                ("two", "groq", 20),
                ("three", "groq", 30),
                ("four", "resend", 40),
            )
            for more, outcome in enumerate(("accepted", "refused", "faults", "rejected"), 1)
        },
        "keywheel_tokens_total one groq": 15,
        "keywheel_tokens_total two groq": 25,
        "keywheel_tokens_total three groq": 35,
        "keywheel_tokens_total four resend": 45,
        "keywheel_head_room_ratio one groq": 0.5,
        "keywheel_head_room_ratio two groq": 0,
        "keywheel_service_paused groq": 0,
        "keywheel_service_paused resend": 1,
        "keywheel_queue_length ai groq": 3,
        "keywheel_queue_length email resend": 6,
        "keywheel_jobs_waiting ai groq": 7,
        "keywheel_jobs_waiting email resend": 6,
        "keywheel_jobs_servable ai groq": 5_004,
        "keywheel_jobs_servable email resend": 6_101,
        "keywheel_queue_oldest_seconds interactive ai groq": 7.5,
        "keywheel_queue_oldest_seconds bulk ai groq": 8.5,
        "keywheel_queue_oldest_seconds interactive email resend": 0,
        "keywheel_queue_oldest_seconds bulk email resend": 0,
        "keywheel_queue_paused ai groq": 3,
        "keywheel_queue_paused email resend": 0,
        "keywheel_idle_seconds ai groq": 9.5,
        "keywheel_idle_seconds email resend": 0,
        "keywheel_drain_seconds ai groq": 14,
        "keywheel_drain_seconds email resend": float("inf"),
        "keywheel_workers": 5,
        "keywheel_clock_skew_seconds": 0.5,
    }


def test_a_number_that_is_not_known_has_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    assert samples(None, monkeypatch) == {"keywheel_up": 0}
    values = samples(state_of(known=False), monkeypatch)
    assert values["keywheel_up"] == 0
    assert [name for name in values if name.endswith("ai groq")] == []
    assert values["keywheel_queue_length email resend"] == 6


def test_deferrals_of_the_users_own_tasks_count_for_their_service() -> None:
    registry = CollectorRegistry()
    app: Any = SimpleNamespace(
        tasks={
            "shop.describe": SimpleNamespace(service="groq"),
            "shop.mail": SimpleNamespace(service="resend"),
            "shop.other": SimpleNamespace(),
        }
    )
    deferrals = Deferrals(registry, app)
    waits = {"kind": "key", "code": "rpm"}
    for name in ("shop.describe", "shop.mail", "shop.other", "shop.gone"):
        deferrals.on_event(
            {"type": "task-retried", "name": name, "waits": waits, "countdown_s": 1.5}
        )
    for service in ("groq", "resend"):
        named = {"service": service}
        assert registry.get_sample_value("keywheel_deferrals_total", named) == 1
        assert registry.get_sample_value("keywheel_wait_seconds_sum", named) == 1.5
