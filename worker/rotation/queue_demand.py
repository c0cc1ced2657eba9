"""What waits in this process for keys: of one service, and of all services of one queue."""

import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

_KNOWN_S = 2.5  # how long what was seen in the queue counts

Resources = tuple[str, ...]


class ServiceDemand(Protocol):
    """What waits for a service's keys in this process."""

    on_full: Callable[[], None] | None

    def count(self, *, bulk: bool) -> int:
        """How many jobs wait."""
        ...

    def shortest(self, *, bulk: bool) -> int:
        """How many of them wait in the shortest line that is used."""
        ...

    def capacity(self) -> int:
        """How many may wait in a line: what the keys serve soon."""
        ...

    def resting_s(self) -> float:
        """For how long no job can be served, in seconds; 0 where one can."""
        ...

    def may_block_others(self) -> bool:
        """Whether jobs of one kind may keep others in the queue from their keys."""
        ...

    def note_upcoming(self, kinds: Iterable[tuple[Resources, bool]]) -> None:
        """Jobs of these kinds stand in the queue: for these models, bulk or not."""
        ...


class QueueDemand:
    """What waits for the keys of all the services whose jobs come by one queue.

    With one service it is that service's demand. Where several share the queue, a service whose
    keys have no room must not keep the jobs of the others from theirs. So the queue counts as full,
    or as resting, only where that is so of each service whose jobs are there.
    """

    def __init__(self) -> None:
        self._demands: dict[str, ServiceDemand] = {}
        self._seen_s: dict[str, float] = {}

    def add(self, service: str, demand: ServiceDemand) -> None:
        """Count a service's demand among those of this queue, in place of an earlier one."""
        self._demands[service] = demand
        if hasattr(demand, "others_pass"):
            demand.others_pass = lambda bulk: self._others_pass(service, bulk=bulk)

    def on_full(self, notify: Callable[[], None]) -> None:
        """Have a callback called when more jobs wait than there is room for."""
        for demand in self._demands.values():
            if demand.on_full is None:
                demand.on_full = notify

    def count(self, *, bulk: bool) -> int:
        """How many jobs wait."""
        return sum(demand.count(bulk=bulk) for demand in self._demands.values())

    def capacity(self) -> int:
        """How many jobs may wait for the service with the most room."""
        return max(demand.capacity() for demand in self._wanted())

    def shortest(self, *, bulk: bool) -> int:
        """How many jobs wait, as `capacity` counts: less than it where some service has room."""
        wanted = self._wanted()
        if len(wanted) == 1:
            return wanted[0].shortest(bulk=bulk)
        free = max(demand.capacity() - demand.shortest(bulk=bulk) for demand in wanted)
        return self.capacity() - free

    def resting_s(self) -> float:
        """For how long no job can be served, in seconds; 0 where one can."""
        return min(demand.resting_s() for demand in self._wanted())

    def may_block_others(self) -> bool:
        """Whether jobs of one kind may keep others in the queue from their keys."""
        return any(demand.may_block_others() for demand in self._demands.values())

    def note_upcoming(self, kinds: Collection[tuple[str, Resources | None, bool]]) -> None:
        """Jobs of these kinds stand in the queue.

        Args:
            kinds: For each, the service, what its key is needed for (None: that cannot be read),
                and whether it is a bulk job.
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
        """The demands of the services whose jobs are in the queue, or else in this process."""
        demands = list(self._demands.values())
        if len(demands) == 1:
            return demands
        seen = [demand for name, demand in self._demands.items() if self._is_seen(name)]
        return seen or [demand for demand in demands if _is_used(demand)] or demands

    def _is_seen(self, service: str) -> bool:
        return self._seen_s.get(service, float("-inf")) > time.monotonic() - _KNOWN_S

    def _others_pass(self, service: str, *, bulk: bool) -> bool:
        """Whether jobs of another service stand in the queue, and can be served soon."""
        return any(
            demand.shortest(bulk=bulk) <= demand.capacity() // 2 and not demand.resting_s()
            for name, demand in self._demands.items()
            if name != service and self._is_seen(name)
        )


def _is_used(demand: ServiceDemand) -> bool:
    waiting = demand.count(bulk=False) + demand.count(bulk=True)
    return waiting > 0 or demand.resting_s() > 0
