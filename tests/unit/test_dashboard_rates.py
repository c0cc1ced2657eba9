"""Counters turned into a rate, and since when nothing has moved."""

from dataclasses import asdict
from typing import Any

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry, Counter

from worker.dashboard import rates
from worker.dashboard.deferred_jobs import DeferredJob
from worker.dashboard.ended import jobs_ended
from worker.dashboard.rates import ServiceRates
from worker.dashboard.state import DashboardState, QueueView, ServiceView
from worker.hooks.task import ServiceTask
from worker.keypool import BlockView, BucketView, KeyView, PoolView
from worker.providers.drift import Seen

START_MS = 1_700_000_040_000  # the beginning of a minute
COUNTS = ("in_flight", "calls", "accepted", "refused", "faults", "rejected", "tokens", "used_ms")


def seen(
    after_s: float, *, state: str = "ready", left: float = 30, unfit: str = "", **counts: int
) -> PoolView:
    """One key, `after_s` seconds after the beginning, with `left` of 30 calls a minute."""
    bucket = BucketView("m", "rpm", 30, left, 60_000)
    blocks = (
        (BlockView("key_resource", unfit, "disabled", "domain_not_verified", 1, None),)
        if unfit
        else ()
    )
    key = KeyView(
        "0" * 12, "gsk_x...", "GROQ_API_KEY", "a", state, blocks, buckets=(bucket,),
        **(dict.fromkeys(COUNTS, 0) | counts),
    )  # fmt: skip
    return PoolView("groq", START_MS + round(after_s * 1000), (key,))


def sample(
    rates: ServiceRates, after_s: float, *, waiting: int = 0, ended: int = 0, **key: Any
) -> None:
    rates.add(seen(after_s, **key), waiting=waiting, ended=ended)


def test_counts_from_before_the_first_sample_add_nothing_to_the_rate() -> None:
    rates = ServiceRates()
    assert (rates.rate, rates.idle_s) == (0, 0)
    sample(rates, 0, calls=500, refused=20, accepted=480)
    assert rates.rate == 0


# A growing counter: accepted calls, or jobs that are seen to end. A batch of emails is one call and
# many jobs.
@pytest.mark.parametrize("counter", ["accepted", "ended"])
def test_the_rate_is_that_of_the_last_minute(counter: str) -> None:
    rates = ServiceRates()
    for second in range(0, 200, 10):
        sample(rates, second, **{counter: second * 2})
    assert rates.rate == 2
    for second in range(200, 300, 10):
        sample(rates, second, **{counter: 380})
    assert rates.rate == 0


def test_once_all_keys_are_out_the_last_minute_says_nothing_about_the_next() -> None:
    rates = ServiceRates()
    for second in range(0, 40, 2):
        sample(rates, second, accepted=second * 3)
    assert rates.rate == 3
    for second in range(40, 48, 2):
        sample(rates, second, accepted=114, state="cooling")
    assert rates.rate > 2, "a call may still be in flight, or use another resource"
    sample(rates, 50, accepted=114, state="cooling")
    assert rates.rate == 0
    sample(rates, 51, accepted=120, state="cooling")
    assert rates.rate > 0


def test_counters_that_fall_start_again() -> None:
    rates = ServiceRates()
    sample(rates, 0, calls=100, refused=10, accepted=90)
    sample(rates, 1)
    sample(rates, 2, calls=3, refused=1, accepted=2)
    assert rates.rate == 2


# What is seen beside waiting jobs while no call ends, and whether that is a standstill.
@pytest.mark.parametrize(
    ("key", "waiting", "idle"),
    [
        ({}, 5, True),
        ({}, 0, False),  # no job waits
        ({"state": "cooling"}, 5, False),  # no key serves
        ({"left": 1}, 5, False),  # the rest may be too little for the next job
        ({"left": 3}, 5, True),
        ({"unfit": "a.example"}, 5, False),  # the waiting emails may be from that domain
        ({"in_flight": 1}, 5, False),  # a call is in flight
    ],
)
def test_a_standstill_is_when_jobs_wait_and_a_key_with_room_is_not_called(
    key: dict[str, Any], waiting: int, *, idle: bool
) -> None:
    rates = ServiceRates()
    for second in range(0, 200, 10):
        sample(rates, second, waiting=waiting, calls=7, **key)
    assert rates.idle_s == (190 if idle else 0)
    sample(rates, 200, waiting=waiting, calls=8, **key)
    assert rates.idle_s == 0, "a call was made"


def _work() -> None:
    """The function of a task."""


def test_succeeded_and_failed_jobs_of_our_tasks_have_ended_and_retried_ones_have_not() -> None:
    app = Celery(set_as_current=False, task_cls=ServiceTask)
    app.task(name="shop.email", service="resend", shared=False)(_work)
    app.task(name="shop.answer", service="groq", shared=False)(_work)

    class Flowers:
        events = Counter(
            "flower_events", "events", ["worker", "type", "task"], registry=CollectorRegistry()
        )

    for worker, kind, task, count in (
        ("w1", "task-succeeded", "shop.email", 90),
        ("w2", "task-succeeded", "shop.email", 9),
        ("w1", "task-failed", "shop.email", 1),
        ("w1", "task-retried", "shop.email", 50),
        ("w1", "task-succeeded", "shop.answer", 7),
        ("w1", "task-succeeded", "shop.charge", 3),
    ):
        Flowers.events.labels(worker, kind, task).inc(count)
    assert jobs_ended(Flowers, app) == {"resend": 100, "groq": 7}


def view(rate: float, **queue: float) -> ServiceView:
    return ServiceView(PoolView("groq", 0, ()), QueueView("ai", **queue), rate)  # type: ignore[arg-type]


def test_the_queue_is_empty_when_all_that_waits_is_done() -> None:
    assert view(2.0, ready=10, deferred=5, held=5).drain_s == 10
    assert view(0.0, ready=10).drain_s is None  # no job is served
    assert view(0.0).drain_s == 0  # no job waits
    jobs = tuple(DeferredJob(f"{end}", end * 1000, "key", "epd", None) for end in (60, 900))
    waits = QueueView("email", deferred=200, deferred_jobs=jobs)
    service = ServiceView(PoolView("resend", 60_000, ()), waits, 2.0)
    assert service.drain_s == 840, "the last deferred job comes back then"


def test_a_queue_is_paused_when_every_worker_has_paused_it() -> None:
    assert view(0, workers=2).queue.paused == "none"
    assert view(0, workers=2, paused_workers=1).queue.paused == "some"
    assert view(0, workers=2, paused_workers=2).queue.paused == "all"
    assert view(0, workers=0).queue.paused == "unknown"


def test_the_figures_of_a_service_are_rounded_as_far_as_they_are_known() -> None:
    service = ServiceView(PoolView("groq", 0, ()), QueueView("ai", ready=1, held=2), 0.12345, 1.26)
    queue = service.as_json()["queue"]
    assert (queue["rate"], queue["idle_s"], queue["drain_s"]) == (0.123, 1.3, 3 / 0.12345)
    assert (queue["waiting"], queue["paused"], queue["ready"]) == (3, "unknown", 1)


def test_of_many_unknown_answers_the_latest_fifty_are_shown() -> None:
    seen = tuple(Seen("groq", "error_code", f"code_{n}", 1, 1, 1) for n in range(51))
    shown = DashboardState({}, unknown=seen).as_json()["unknown_answers"]
    assert shown == [answer.as_json() for answer in seen[:50]]


def test_a_queue_of_which_nothing_is_known_shows_nothing() -> None:
    shown = asdict(QueueView("ai", known=False))
    assert shown.pop("name") == "ai"
    assert not any(shown.values())


def test_a_rate_is_that_of_the_last_minute() -> None:
    rate = rates._Rate()
    assert rate.per_s == 0.0
    for at_ms, count in ((0, 0), (1_000, 100), (61_000, 160)):
        rate.add(at_ms, count)
    assert rate.per_s == 160 / 61, "the sample of a minute ago is included"
    rate.add(61_001, 160)
    assert rate.per_s == 60 / 60.001
    rate.add(62_000, 3)
    assert rate.per_s == 0.0, "the counter has begun again"


@pytest.mark.parametrize(
    ("queue", "rate", "drain_s"),
    [
        (QueueView("ai"), 0.0, 0.0),
        (QueueView("ai", known=False), 1.0, None),
        (QueueView("ai", ready=4), 0.0, None),
        (QueueView("ai", ready=4), 2.0, 2.0),
        (QueueView("ai", deferred=4, deferred_jobs=(DeferredJob("a", 9_500),)), 2.0, 8.5),
        (QueueView("ai", deferred=40, deferred_jobs=(DeferredJob("a", 9_500),)), 2.0, 20.0),
    ],
)
def test_a_queue_is_empty_once_its_last_job_has_come_back(
    queue: QueueView, rate: float, drain_s: float | None
) -> None:
    assert ServiceView(PoolView("groq", 1_000, ()), queue, rate).drain_s == drain_s


@pytest.mark.parametrize(
    ("paused", "workers", "paused_by"),
    [(0, 0, "unknown"), (1, 0, "unknown"), (0, 2, "none"), (1, 2, "some"), (2, 2, "all")],
)
def test_a_queue_says_how_many_workers_have_paused_it(
    paused: int, workers: int, paused_by: str
) -> None:
    assert QueueView("ai", paused_workers=paused, workers=workers).paused == paused_by
