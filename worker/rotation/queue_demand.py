"""Combines the demand for keys of all services that share one queue, in this process."""

import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

_KNOWN_S = 2.5  # how long a reading of the queue counts as current

Resources = tuple[str, ...]


class ServiceDemand(Protocol):
    """The jobs that wait for a service's keys in this process."""

    on_full: Callable[[], None] | None

    def count(self, *, bulk: bool) -> int:
        """Return how many jobs wait."""
        ...

    def shortest(self, *, bulk: bool) -> int:
        """Return how many jobs wait in the shortest line that is in use."""
        ...

    def capacity(self) -> int:
        """Return how many jobs may wait in a line: as many as the keys serve soon."""
        ...

    def resting_s(self) -> float:
        """Return for how many seconds no job can be served; 0: a job can be served now."""
        ...

    def may_block_others(self) -> bool:
        """Return whether jobs of one kind may keep others in the queue from their keys."""
        ...

    def note_upcoming(self, kinds: Iterable[tuple[Resources, bool]]) -> None:
        """Note the kinds of the jobs in the queue: their models, and whether they are bulk jobs."""
        ...


class QueueDemand:
    """The jobs that wait for the keys of all services whose jobs come by one queue.

    With one service, this is the demand of that service. If several services share the queue, a
    service whose keys have no room must not keep the jobs of the other services waiting. So the
    queue counts as full, or as resting, only if that is true of each service whose jobs are in it.
    """

    def __init__(self) -> None:
        self._demands: dict[str, ServiceDemand] = {}
        self._seen_s: dict[str, float] = {}

    def add(self, service: str, demand: ServiceDemand) -> None:
        """Add the demand of a service, or replace the earlier one of that service."""
        self._demands[service] = demand
        if hasattr(demand, "others_pass"):
            demand.others_pass = lambda bulk: self._others_pass(service, bulk=bulk)

    def on_full(self, notify: Callable[[], None]) -> None:
        """Register a callback for the case that more jobs wait than there is room for."""
        for demand in self._demands.values():
            if demand.on_full is None:
                demand.on_full = notify

    def count(self, *, bulk: bool) -> int:
        """Return how many jobs wait."""
        return sum(demand.count(bulk=bulk) for demand in self._demands.values())

    def capacity(self) -> int:
        """Return how many jobs may wait for the service with the largest capacity."""
        return max(demand.capacity() for demand in self._wanted())

    def shortest(self, *, bulk: bool) -> int:
        """Return a number of waiting jobs that is below `capacity` if any service has room."""
        wanted = self._wanted()
        if len(wanted) == 1:
            return wanted[0].shortest(bulk=bulk)
        free = max(demand.capacity() - demand.shortest(bulk=bulk) for demand in wanted)
        return self.capacity() - free

    def resting_s(self) -> float:
        """Return for how many seconds no job can be served; 0: a job can be served now."""
        return min(demand.resting_s() for demand in self._wanted())

    def may_block_others(self) -> bool:
        """Return whether jobs of one kind may keep others in the queue from their keys."""
        return any(demand.may_block_others() for demand in self._demands.values())

    def note_upcoming(self, kinds: Collection[tuple[str, Resources | None, bool]]) -> None:
        """Note the kinds of the jobs in the queue.

        Args:
            kinds: The kinds, each with its service, the models or from-domain that its key must
                serve (None: unknown), and whether it is bulk.
        """
        now_s = time.monotonic()
        self._seen_s |= {service: now_s for service, _, _ in kinds}
        for name, demand in self._demands.items():
            demand.note_upcoming(
                (resources, bulk)
                for service, resources, bulk in kinds
                if service == name and resources is not None
            )

    def _wanted(self) -> list[ServiceDemand]:
        """Return the demands of services with jobs in the queue, else in this process, else all."""
        demands = list(self._demands.values())
        if len(demands) == 1:
            return demands
        seen = [demand for name, demand in self._demands.items() if self._is_seen(name)]
        return seen or [demand for demand in demands if _is_used(demand)] or demands

    def _is_seen(self, service: str) -> bool:
        return self._seen_s.get(service, float("-inf")) > time.monotonic() - _KNOWN_S

    def _others_pass(self, service: str, *, bulk: bool) -> bool:
        """Return whether jobs of another service are in the queue and can be served soon."""
        return any(
            demand.shortest(bulk=bulk) <= demand.capacity() // 2 and not demand.resting_s()
            for name, demand in self._demands.items()
            if name != service and self._is_seen(name)
        )


def _is_used(demand: ServiceDemand) -> bool:
    waiting = demand.count(bulk=False) + demand.count(bulk=True)
    return waiting > 0 or demand.resting_s() > 0
