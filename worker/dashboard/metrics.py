"""Makes metrics for Prometheus from the poller's latest state, without a request to Redis.

`/metrics` is open to anyone who reaches the port. So it shows the id of a key, but no label,
account, reason or variable.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flower.views.monitor import Metrics as FlowerMetrics
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.services import SERVICES
from worker.dashboard.poller import Poller
from worker.dashboard.servable import servable_jobs
from worker.dashboard.state import ServiceView
from worker.deadletters import KINDS, OWNERS, Counts
from worker.emails.batching import MOST_IN_BATCH
from worker.keypool import KeyView
from worker.providers.drift import Seen
from worker.providers.unknowns import Kind


class Metrics(FlowerMetrics):
    """`/metrics`: Flower's own metrics, then ours."""

    async def get(self) -> None:
        """Write Flower's metrics, then ours."""
        await super().get()
        self.write(generate_latest(self.application.metrics))


class KeysCollector(Collector):
    """Turns the latest state into metrics.

    Args:
        poller: The source of the state.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    def describe(self) -> list[Metric]:
        """Return nothing; otherwise registering this collector would collect from it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; if Redis does not answer, only `keywheel_up`, as 0."""
        state = self._poller.state
        up = state is not None and all(view.queue.known for view in state.services.values())
        yield GaugeMetricFamily(
            "keywheel_up", "Whether key pools and queues can be read", value=int(up)
        )
        if state is None:
            return
        yield GaugeMetricFamily(
            "keywheel_redis_evicts",
            "Whether Redis may throw away jobs when it is full",
            value=int(bool(state.evicts)),
        )
        known = {name: view for name, view in state.services.items() if view.queue.known}
        yield from (row.of(state.services) for row in OF_KEYS)
        yield from (row.of(known) for row in OF_QUEUES)
        yield from _workers(state.services)
        yield _dead_letters(state.dead_letters)
        yield _unknown(state.unknown)


@dataclass(frozen=True, slots=True)
class Row:
    """A metric that each service has.

    Attributes:
        name: The metric's name, without `keywheel_`.
        help_text: The help text that `/metrics` shows.
        labels: The metric's labels besides `service`.
        samples: Returns the samples of a service, each with the values of `labels`, then the
            number.
        family: The metric's type.
    """

    name: str
    help_text: str
    labels: tuple[str, ...]
    samples: Callable[[ServiceView], Iterable[tuple[Any, ...]]]
    family: type[GaugeMetricFamily | CounterMetricFamily] = GaugeMetricFamily

    def of(self, services: Mapping[str, ServiceView]) -> Metric:
        """Return the metric with the samples of these services."""
        metric = self.family(
            f"keywheel_{self.name}", self.help_text, labels=["service", *self.labels]
        )
        for service, view in services.items():
            for *labels, number in self.samples(view):
                metric.add_metric([service, *labels], number)
        return metric


def _states(view: ServiceView) -> Iterator[tuple[str, int]]:
    states = [key.state for key in view.pool.keys]
    return ((state, states.count(state)) for state in ("ready", "cooling", "disabled"))


def _outcomes(view: ServiceView) -> Iterator[tuple[str, str, int]]:
    for key in view.pool.keys:
        for outcome in ("accepted", "refused", "faults", "rejected"):
            yield key.id, outcome, getattr(key, outcome)


def _head_room(view: ServiceView) -> Iterator[tuple[str, float]]:
    for key in view.pool.keys:
        shares = [bucket.remaining / bucket.limit for bucket in key.buckets if bucket.limit > 0]
        if shares:
            yield key.id, max(0.0, min(shares))


def of_each_key(value: Callable[[KeyView], float]) -> Callable[[ServiceView], Iterator[Any]]:
    """Return a function that makes one sample of each key of a service."""
    return lambda view: ((key.id, value(key)) for key in view.pool.keys)


def of_queue(value: Callable[[ServiceView], float]) -> Callable[[ServiceView], Iterator[Any]]:
    """Return a function that makes the single sample of a service's queue."""
    return lambda view: iter([(view.queue.name, value(view))])


def _servable(view: ServiceView) -> int:
    batches = SERVICES[view.pool.service].sends_once
    waiting = view.queue.ready + view.queue.held
    return servable_jobs(view.pool, waiting, jobs_a_call=MOST_IN_BATCH if batches else 1)


OF_KEYS: Final = (
    Row("keys", "Keys by state", ("state",), _states),
    Row(
        "in_flight",
        "Calls in flight",
        (),
        lambda view: [(sum(key.in_flight for key in view.pool.keys),)],
    ),
    Row(
        "key_ready",
        "Whether a key may be called",
        ("key",),
        of_each_key(lambda key: key.state == "ready"),
    ),
    Row("calls", "Calls that ended", ("key", "outcome"), _outcomes, CounterMetricFamily),
    Row(
        "tokens", "Tokens used", ("key",), of_each_key(lambda key: key.tokens), CounterMetricFamily
    ),
    Row(
        "head_room_ratio",
        "Share that is left of a key's tightest limit",
        ("key",),
        _head_room,
    ),
    Row(
        "service_paused",
        "Whether a person has paused the service",
        (),
        lambda view: [(view.pool.paused,)],
    ),
)

OF_QUEUES: Final = (
    Row(
        "queue_length",
        "Jobs in the broker, not fetched",
        ("queue",),
        of_queue(lambda view: view.queue.ready + view.queue.deferred),
    ),
    Row(
        "jobs_waiting",
        "Jobs that wait in the broker or in a worker",
        ("queue",),
        of_queue(lambda view: view.queue.waiting),
    ),
    Row(
        "jobs_servable",
        "Waiting jobs that the keys could serve within half a minute",
        ("queue",),
        of_queue(_servable),
    ),
    Row(
        "queue_oldest_seconds",
        "Lower bound of how long the oldest job has waited, deferred jobs included",
        ("queue", "priority"),
        lambda view: [
            (view.queue.name, "interactive", view.queue.oldest_s),
            (view.queue.name, "bulk", view.queue.oldest_bulk_s),
        ],
    ),
    Row(
        "queue_paused",
        "Workers that have paused the queue",
        ("queue",),
        of_queue(lambda view: view.queue.paused_workers),
    ),
    Row(
        "idle_seconds",
        "How long jobs have waited without any call although a key has room",
        ("queue",),
        of_queue(lambda view: view.idle_s),
    ),
    Row(
        "drain_seconds",
        "Time until the queue should be empty",
        ("queue",),
        of_queue(lambda view: math.inf if view.drain_s is None else view.drain_s),
    ),
)


def _workers(services: Mapping[str, ServiceView]) -> Iterator[Metric]:
    queues = [view.queue for view in services.values()]
    yield GaugeMetricFamily(
        "keywheel_workers",
        "Workers that answered the latest poll",
        value=max(queue.workers for queue in queues),
    )
    yield GaugeMetricFamily(
        "keywheel_clock_skew_seconds",
        "Largest difference between a worker's clock and Redis'",
        value=max(queue.clock_skew_s for queue in queues),
    )


def _dead_letters(counts: Counts) -> Metric:
    dead_letters = GaugeMetricFamily(
        "keywheel_dead_letters",
        "Dead letters: jobs that ended for good without success",
        labels=["service", "kind"],
    )
    # Each series exists from the start, so that Prometheus sees its first increase.
    for service in OWNERS:
        for kind in KINDS:
            dead_letters.add_metric([service, kind], counts.of.get((service, kind), 0))
    return dead_letters


def _unknown(seen: Sequence[Seen]) -> Metric:
    answers = CounterMetricFamily(
        "keywheel_unknown_answers",
        "Provider answers that this version does not know; `keys drift` lists them",
        labels=["service", "kind"],
    )
    counts: Counter[tuple[str, str]] = Counter(
        {(service, kind): 0 for service in SERVICES for kind in Kind}
    )  # from the start, as above
    for answer in seen:
        counts[answer.service, answer.kind] += answer.count
    for labels, count in counts.items():
        answers.add_metric(labels, count)
    return answers


def registry_of(poller: Poller) -> CollectorRegistry:
    """Make a registry that collects from this poller only.

    Flower uses the process' registry, but several of our applications may share a process.
    """
    registry = CollectorRegistry()
    registry.register(KeysCollector(poller))
    return registry
