"""Metrics for Prometheus, made from the lookout's latest board.

Collecting them asks nobody anything.

`/metrics` is open to whoever reaches the port. So a key shows as its id alone, and no account,
reason or variable does.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from flower.views.monitor import Metrics as FlowerMetrics
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.keys import SERVICES as PROVIDERS
from worker.dashboard.poller import Lookout
from worker.dashboard.state import ServiceView
from worker.deadletters import KINDS, SERVICES, Counts
from worker.providers.drift import Seen
from worker.providers.unknowns import Kind

_STATES = ("ready", "cooling", "disabled")


class Metrics(FlowerMetrics):
    """`/metrics`: Flower's own, then ours."""

    async def get(self) -> None:
        """Write both."""
        await super().get()
        self.write(generate_latest(self.application.metrics))


class KeysCollector(Collector):
    """Turns the latest board into metrics.

    Args:
        lookout: Whose board.
    """

    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout

    def describe(self) -> list[Metric]:
        """Promise nothing: registering must not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield what is known; where Redis does not answer, only that it does not."""
        board = self._lookout.board
        sees = board is not None and all(view.queue.known for view in board.services.values())
        yield GaugeMetricFamily(
            "keywheel_up", "Whether key pools and queues can be looked at", value=int(sees)
        )
        if board is None:
            return
        yield GaugeMetricFamily(
            "keywheel_redis_evicts",
            "Whether Redis may throw away jobs when it is full",
            value=int(bool(board.evicts)),
        )
        yield from _keys(board.services)
        yield from _queues(board.services)
        yield from _dead(board.dead)
        yield _unknown(board.unknown)


def _keys(services: dict[str, ServiceView]) -> Iterator[Metric]:
    keys = GaugeMetricFamily("keywheel_keys", "Keys by state", labels=["service", "state"])
    in_flight = GaugeMetricFamily("keywheel_in_flight", "Calls under way", labels=["service"])
    ready = GaugeMetricFamily(
        "keywheel_key_ready", "Whether a key serves", labels=["service", "key"]
    )
    calls = CounterMetricFamily(
        "keywheel_calls", "Calls that ended", labels=["service", "key", "outcome"]
    )
    tokens = CounterMetricFamily("keywheel_tokens", "Tokens used", labels=["service", "key"])
    room = GaugeMetricFamily(
        "keywheel_head_room_ratio",
        "What is left of the limit that is nearest to its end",
        labels=["service", "key"],
    )
    for service, view in services.items():
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
    yield from (keys, in_flight, ready, calls, tokens, room)


def _queues(services: dict[str, ServiceView]) -> Iterator[Metric]:
    length = GaugeMetricFamily(
        "keywheel_queue_length", "Jobs in the broker, not fetched", labels=["service", "queue"]
    )
    waiting = GaugeMetricFamily(
        "keywheel_jobs_waiting", "Jobs that wait, wherever", labels=["service", "queue"]
    )
    oldest = GaugeMetricFamily(
        "keywheel_queue_oldest_seconds",
        "The job that has waited longest has waited at least so long, deferred jobs included",
        labels=["service", "queue", "priority"],
    )
    paused = GaugeMetricFamily(
        "keywheel_queue_paused",
        "Workers that take no more of the queue for now",
        labels=["service", "queue"],
    )
    idle = GaugeMetricFamily(
        "keywheel_idle_seconds",
        "For so long jobs have waited, a key has had room, and no call was made",
        labels=["service", "queue"],
    )
    drain = GaugeMetricFamily(
        "keywheel_drain_seconds", "Until the queue is empty", labels=["service", "queue"]
    )
    workers = GaugeMetricFamily("keywheel_workers", "Workers that answer")
    for service, view in services.items():
        if not view.queue.known:
            continue
        labels = [service, view.queue.name]
        length.add_metric(labels, view.queue.ready + view.queue.deferred)
        waiting.add_metric(labels, view.queue.waiting)
        oldest.add_metric([*labels, "interactive"], view.queue.oldest_s)
        oldest.add_metric([*labels, "bulk"], view.queue.oldest_bulk_s)
        paused.add_metric(labels, view.queue.paused_workers)
        idle.add_metric(labels, view.idle_s)
        drain.add_metric(labels, float("inf") if view.drain_s is None else view.drain_s)
    workers.add_metric([], max((view.queue.workers for view in services.values()), default=0))
    yield from (length, waiting, oldest, paused, idle, drain, workers)


def _dead(counts: Counts) -> Iterator[Metric]:
    letters = GaugeMetricFamily(
        "keywheel_dead_letters",
        "Jobs that ended without success and are kept",
        labels=["service", "kind"],
    )
    for service in SERVICES:
        for (
            kind
        ) in KINDS:  # all of them from the start, so that the first one is seen as an increase
            letters.add_metric([service, kind], counts.of.get((service, kind), 0))
    yield letters


def _unknown(seen: Sequence[Seen]) -> Metric:
    answers = CounterMetricFamily(
        "keywheel_unknown_answers",
        "Answers of the providers that this version does not know; `keys drift` lists them",
        labels=["service", "kind"],
    )
    counts: Counter[tuple[str, str]] = Counter(
        {(service, kind): 0 for service in PROVIDERS for kind in Kind}
    )  # from the start, as above
    for one in seen:
        counts[one.service, one.kind] += one.count
    for labels, count in counts.items():
        answers.add_metric(labels, count)
    return answers


def registry_of(lookout: Lookout) -> CollectorRegistry:
    """A registry of our own.

    Flower's is the process' one, and several of our applications may live in a process.
    """
    registry = CollectorRegistry()
    registry.register(KeysCollector(lookout))
    return registry
