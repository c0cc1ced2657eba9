"""Holds jobs that wait in this process for the same keys, in the order of their arrival."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from worker.errors import Deferred
from worker.keypool import HORIZON_MS, Lease, LeaseRequest, NoLease, NoLeaseReason
from worker.rotation.tenant_turns import TenantTurns

SEARCHED = 64
"""How many jobs of a long queue are searched for one that is smaller than the first job."""
_USED_S = 10.0
"""A queue is in use for this time after the latest job has entered it, in seconds."""
_SETTLE_S = 0.005
"""How long a queue that is woken waits for further changes, in seconds."""

Answer = Lease | NoLease
Shape = tuple[tuple[tuple[str, str], ...], bool, str, frozenset[str], frozenset[str]]
Resources = tuple[str, ...]
Kind = tuple[Resources, bool]
"""The models that jobs may use, and whether they are bulk jobs."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A job that waits.

    Attributes:
        lease_request: What the job's call needs of a key.
        arrived_s: When the job arrived, on the monotonic clock, minus the time that it waited in
            earlier turns.
        answer: The job's lease, or the reason why it gets none.
    """

    lease_request: LeaseRequest
    arrived_s: float
    answer: "asyncio.Future[Answer]"

    def has_answer(self) -> bool:
        """Return whether the pool has answered; an error or a cancellation is not an answer."""
        return (
            self.answer.done() and not self.answer.cancelled() and self.answer.exception() is None
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn to ask for a lease.

    Attributes:
        waiter: The job that asks.
        since_s: When the job at this place of the queue came, on the monotonic clock. If tenants
            take turns, another job may ask in its place.
        next_since_s: When the job at the next place came; None: this place is the last one.
    """

    waiter: Waiter
    since_s: float
    next_since_s: float | None

    def request_at(self, now_s: float) -> LeaseRequest:
        """Return the request to the pool at an instant of the monotonic clock."""
        waited_ms = max(0, round((now_s - self.since_s) * 1000))
        return replace(self.waiter.lease_request, waited_ms=waited_ms)


@dataclass(slots=True, eq=False)
class WaitQueue:
    """Jobs that the same keys may serve, in the order of their arrival.

    Attributes:
        wait_list: The name of the queue's wait list in Redis; empty: it has none.
        bulk: The jobs are bulk jobs.
        resources: The models, or the from-domain, that the jobs need access to.
        waiters: The jobs that wait.
        asking: How many jobs ask the pool at once on arrival, without waiting in the queue.
        entered: The queue has its line in the wait list.
        smallest: The smallest number of tokens that the pool had no room for; None: it has refused
            no request.
        reason: Why the latest request got no lease.
        until_call_ends: A call that ends may make room.
        resting_until_s: Until when no key may be called, on the monotonic clock.
        used_s: When the latest job arrived, on the monotonic clock.
        granted_s: When jobs got leases, within the latest horizon.
        sent_back: The jobs that went back to the broker because the queue was full: for each the
            instant at which it returns, and its id, sorted by that instant.
        server: The task that asks the pool for the jobs.
        woken: Set when something has changed.
        tenants: Decides which tenant's turn it is.
    """

    wait_list: str
    bulk: bool
    resources: Resources
    waiters: list[Waiter] = field(default_factory=list)
    asking: int = 0
    entered: bool = False
    smallest: int | None = None
    reason: str = "many jobs wait for a key"
    until_call_ends: bool = False
    resting_until_s: float = 0.0
    used_s: float = 0.0
    granted_s: deque[float] = field(default_factory=deque)
    sent_back: deque[tuple[float, str]] = field(default_factory=deque)
    server: asyncio.Task[None] | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    tenants: TenantTurns = field(default_factory=TenantTurns)

    @property
    def kind(self) -> Kind:
        """The kind of jobs in this queue."""
        return self.resources, self.bulk

    def is_in_use(self, now_s: float) -> bool:
        """Return whether a job arrived lately, or the keys rest, which keeps jobs in the broker."""
        return self.used_s > now_s - _USED_S or self.resting_until_s > now_s

    @property
    def is_idle(self) -> bool:
        """Whether no job waits, asks or is about to come back."""
        return not (self.waiters or self.asking or self.server or self.sent_back)

    def may_fit(self, lease_request: LeaseRequest) -> bool:
        """Return whether a request is smaller than every one that the pool had no room for."""
        return self.smallest is None or lease_request.tokens < self.smallest

    def add(self, waiter: Waiter) -> None:
        """Add a job behind all that arrived before it."""
        insort(self.waiters, waiter, key=lambda waiting: waiting.arrived_s)

    def drop(self, waiter: Waiter) -> None:
        """Remove a job that no longer waits."""
        # A cancelled job does not read its exception, which asyncio would log, so it is read here.
        if not waiter.answer.cancel() and not waiter.answer.cancelled():
            waiter.answer.exception()
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            if not self.waiters:
                self.woken.set()

    def next_to_ask(self, width: int) -> Iterator[Turn]:
        """Yield the next few turns.

        After a job that the pool had no room for, only smaller jobs get a turn.

        Args:
            width: The maximum number of turns.
        """
        count, searched = 0, self.waiters[:SEARCHED]
        since_s = [waiter.arrived_s for waiter in self.waiters[: SEARCHED + 1]]
        order = self.tenants.order([waiter.lease_request.tenant for waiter in searched])
        for number, index in enumerate(order):
            waiter = searched[index]
            if not waiter.answer.done() and self.may_fit(waiter.lease_request):
                count += 1
                next_s = since_s[number + 1] if number + 1 < len(since_s) else None
                yield Turn(waiter, since_s[number], next_s)
                if count == width:
                    return

    def deliver(self, waiter: Waiter, answer: Answer | BaseException) -> bool:
        """Take a job out of the queue and give it its answer.

        Returns:
            False if the job no longer waits; a lease must then be given back.
        """
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        if waiter.answer.done():
            return False
        if isinstance(answer, Deferred):
            # Each job raises its own error: a shared one would collect the tracebacks of all jobs.
            answer = Deferred(answer.countdown_ms, answer.reason, answer.code, answer.ends_in_ms)
        if isinstance(answer, Lease):
            self.tenants.note_granted(waiter.lease_request.tenant)
        if isinstance(answer, BaseException):
            waiter.answer.set_exception(answer)
        else:
            waiter.answer.set_result(answer)
        return True

    def note_refusal(self, lease_request: LeaseRequest, no_lease: NoLease) -> None:
        """Remember that the pool had no room for a request, so only a smaller one may fit."""
        self.until_call_ends |= (
            # Limits are not known yet, or tokens that a call has not used make room.
            no_lease.why is NoLeaseReason.BUSY or no_lease.first_in_ms > 1.5 * HORIZON_MS
        )
        self.reason = no_lease.reason
        tokens = lease_request.tokens
        self.smallest = tokens if self.smallest is None else min(tokens, self.smallest)

    async def pause(self, pause_s: float) -> None:
        """Wait for a while, or until the queue is woken and further changes had time to come."""
        try:
            async with asyncio.timeout(pause_s):
                await self.woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_SETTLE_S)
