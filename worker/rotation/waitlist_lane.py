"""One line of jobs that wait in this process for the same keys, the one that came first in front."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from worker.errors import Deferred
from worker.keypool import Lease, LeaseRequest, NoLease

# of a long line, so many are looked through for jobs that are smaller than the one that waits
LOOKED_AT = 64
_SETTLE_S = 0.005  # one change seldom comes alone

Shape = tuple[tuple[tuple[str, str], ...], bool, str, frozenset[str], frozenset[str]]
Resources = tuple[str, ...]


@dataclass(slots=True, eq=False)
class Waiter:
    """A job in line."""

    lease_request: LeaseRequest
    came_s: float  # on the monotonic clock; what it had waited before is taken off
    got: "asyncio.Future[Lease | NoLease]"

    def asks(self, now_s: float) -> LeaseRequest:
        """What it asks the pool for at an instant of the monotonic clock."""
        return replace(self.lease_request, waited_ms=max(0, round((now_s - self.came_s) * 1000)))


@dataclass(slots=True, eq=False)
class Lane:
    """One line: jobs that the same keys may serve.

    Attributes:
        wait_list: Its wait list in Redis; empty: it has none.
        waiters: The jobs, the one that came first in front.
        asking: Jobs that ask without having stood in line.
        entered: It is in the wait list.
        smallest: The fewest tokens that were asked for in vain; None: nothing was.
        reason: Why the last one that asked got no lease.
        busy: A call that ends may make room for it.
        resting_until_s: Until then no key may be called, on the monotonic clock.
        came_s: When a job of it came last.
        granted_s: When leases were handed out to it, within the last horizon.
        back: The jobs that were sent back for want of a place, each with when it is to come again,
            in that order.
    """

    wait_list: str
    bulk: bool
    resources: Resources
    waiters: list[Waiter] = field(default_factory=list)
    asking: int = 0
    entered: bool = False
    smallest: int | None = None
    reason: str = "many jobs wait for a key"
    busy: bool = False
    resting_until_s: float = 0.0
    came_s: float = 0.0
    granted_s: deque[float] = field(default_factory=deque)
    back: deque[tuple[float, str]] = field(default_factory=deque)
    server: asyncio.Task[None] | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


def next_to_ask(lane: Lane, width: int) -> Iterator[tuple[Waiter, Waiter | None]]:
    """The next few to ask for, each with who stands behind it.

    After one had no room, only those that are smaller.
    """
    found = 0
    for place, waiter in enumerate(lane.waiters[:LOOKED_AT]):
        if not waiter.got.done() and (
            lane.smallest is None or waiter.lease_request.tokens < lane.smallest
        ):
            found += 1
            yield waiter, lane.waiters[place + 1] if place + 1 < len(lane.waiters) else None
            if found == width:
                return


def is_told(waiter: Waiter) -> bool:
    """Whether a job was told what it got; an error is raised in it, and not counted here."""
    return waiter.got.done() and not waiter.got.cancelled() and waiter.got.exception() is None


def tell(lane: Lane, waiter: Waiter, got: Lease | NoLease | BaseException) -> bool:
    """Take a job out of the line, and tell it what it got.

    False: it does not wait any more, a lease must go back.
    """
    if waiter in lane.waiters:
        lane.waiters.remove(waiter)
    if waiter.got.done():
        return False
    if isinstance(got, BaseException):
        # One of its own for each job: an error that several raise would gather the stacks of all.
        own = Deferred(got.countdown_ms, got.reason, got.code) if isinstance(got, Deferred) else got
        waiter.got.set_exception(own)
    else:
        waiter.got.set_result(got)
    return True


async def pause_until_woken(lane: Lane, pause_s: float) -> None:
    """Wait for a while, or until the line is woken and a moment more.

    What woke it may come several times.
    """
    try:
        async with asyncio.timeout(pause_s):
            await lane.woken.wait()
    except TimeoutError:
        return
    await asyncio.sleep(_SETTLE_S)
