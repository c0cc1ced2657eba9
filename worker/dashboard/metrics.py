"""Metrics for Prometheus, made from the poller's latest state without a request of their own.

`/metrics` is open to anyone who reaches the port, so a key shows as its id alone, and no account,
reason or variable does.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

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
from worker.providers.drift import Seen
from worker.providers.unknowns import Kind

_STATES = ("ready", "cooling", "disabled")


class Metrics(FlowerMetrics):
    """`/metrics`: Flower's own metrics, then ours."""

    async def get(self) -> None:
        """Write both."""
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
        """Describe nothing: registering must not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric; where Redis does not answer, `keywheel_up` alone, as 0."""
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
        yield from _keys(state.services)
        yield from _queues(state.services)
        yield _dead_letters(state.dead_letters)
        yield _unknown(state.unknown)


def _keys(services: dict[str, ServiceView]) -> Iterator[Metric]:
    keys = GaugeMetricFamily("keywheel_keys", "Keys by state", labels=["service", "state"])
    in_flight = GaugeMetricFamily("keywheel_in_flight", "Calls under way", labels=["service"])
    ready = GaugeMetricFamily(
        "keywheel_key_ready", "Whether a key may be called", labels=["service", "key"]
    )
    calls = CounterMetricFamily(
        "keywheel_calls", "Calls that ended", labels=["service", "key", "outcome"]
    )
    tokens = CounterMetricFamily("keywheel_tokens", "Tokens used", labels=["service", "key"])
    room = GaugeMetricFamily(
        "keywheel_head_room_ratio",
        "Share that is left of the limit nearest to exhaustion",
        labels=["service", "key"],
    )
    paused = GaugeMetricFamily(
        "keywheel_service_paused", "Whether a person has paused the service", labels=["service"]
    )
    for service, view in services.items():
        paused.add_metric([service], int(view.pool.paused))
        states = [key.state for key in view.pool.keys]
        for state in _STATES:
            keys.add_metric([service, state], states.count(state))
        in_flight.add_metric([service], sum(key.in_flight for key in view.pool.keys))
        for key in view.pool.keys:
            ready.add_metric([service, key.id], int(key.state == "ready"))
            tokens.add_metric([service, key.id], key.tokens)
            for outcome in ("accepted", "refused", "faults", "rejected"):
                calls.add_metric([service, key.id, outcome], getattr(key, outcome))
            shares = [bucket.remaining / bucket.limit for bucket in key.buckets if bucket.limit > 0]
            if shares:
                room.add_metric([service, key.id], max(0.0, min(shares)))
    yield from (keys, in_flight, ready, calls, tokens, room, paused)


def _queues(services: dict[str, ServiceView]) -> Iterator[Metric]:
    length = GaugeMetricFamily(
        "keywheel_queue_length", "Jobs in the broker, not fetched", labels=["service", "queue"]
    )
    waiting = GaugeMetricFamily(
        "keywheel_jobs_waiting",
        "Jobs that wait, in the broker or in a worker",
        labels=["service", "queue"],
    )
    oldest = GaugeMetricFamily(
        "keywheel_queue_oldest_seconds",
        "Lower bound of how long the oldest job has waited, deferred jobs included",
        labels=["service", "queue", "priority"],
    )
    paused = GaugeMetricFamily(
        "keywheel_queue_paused",
        "Workers that have paused the queue",
        labels=["service", "queue"],
    )
    idle = GaugeMetricFamily(
        "keywheel_idle_seconds",
        "How long jobs have waited without any call although a key has room",
        labels=["service", "queue"],
    )
    drain = GaugeMetricFamily(
        "keywheel_drain_seconds", "Until the queue is empty", labels=["service", "queue"]
    )
    workers = GaugeMetricFamily("keywheel_workers", "Workers that answered the latest poll")
    servable = GaugeMetricFamily(
        "keywheel_jobs_servable",
        "Waiting jobs that the keys could serve within half a minute",
        labels=["service", "queue"],
    )
    skew = GaugeMetricFamily(
        "keywheel_clock_skew_seconds",
        "The largest difference between the clock of a worker and Redis'",
    )
    for service, view in services.items():
        if not view.queue.known:
            continue
        labels = [service, view.queue.name]
        length.add_metric(labels, view.queue.ready + view.queue.deferred)
        waiting.add_metric(labels, view.queue.waiting)
        servable.add_metric(labels, _servable(view))
        oldest.add_metric([*labels, "interactive"], view.queue.oldest_s)
        oldest.add_metric([*labels, "bulk"], view.queue.oldest_bulk_s)
        paused.add_metric(labels, view.queue.paused_workers)
        idle.add_metric(labels, view.idle_s)
        drain.add_metric(labels, float("inf") if view.drain_s is None else view.drain_s)
    queues = [view.queue for view in services.values()]
    workers.add_metric([], max(queue.workers for queue in queues))
    skew.add_metric([], max(queue.clock_skew_s for queue in queues))
    yield from (length, waiting, servable, oldest, paused, idle, drain, workers, skew)


def _servable(view: ServiceView) -> int:
    batches = SERVICES[view.pool.service].sends_once
    waiting = view.queue.ready + view.queue.held
    return servable_jobs(view.pool, waiting, jobs_a_call=MOST_IN_BATCH if batches else 1)


def _dead_letters(counts: Counts) -> Metric:
    dead_letters = GaugeMetricFamily(
        "keywheel_dead_letters",
        "Jobs that ended without success and are kept",
        labels=["service", "kind"],
    )
    # Every series is there from the start, so that its first increase is seen.
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
    """A registry that collects from this poller alone.

    Flower uses the process' registry, but several of our applications may share a process.
    """
    registry = CollectorRegistry()
    registry.register(KeysCollector(poller))
    return registry
