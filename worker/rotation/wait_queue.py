"""One queue of jobs that wait in this process for the same keys, in the order of their arrival."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from worker.errors import Deferred
from worker.keypool import HORIZON_MS, Lease, LeaseRequest, NoLease, NoLeaseReason
from worker.rotation.tenant_turns import TenantTurns

SEARCHED = 64
"""How many jobs of a long queue are searched for one that is smaller than the first."""
_USED_S = 10.0
"""A queue that no job has entered for longer than this is not in use."""
_SETTLE_S = 0.005
"""How long a queue that is woken waits for more changes, which seldom come alone."""

Answer = Lease | NoLease
Shape = tuple[tuple[tuple[str, str], ...], bool, str, frozenset[str], frozenset[str]]
Resources = tuple[str, ...]
Kind = tuple[Resources, bool]
"""Which models jobs may use, and whether they are bulk jobs."""


@dataclass(slots=True, eq=False)
class Waiter:
    """A job that waits.

    Attributes:
        lease_request: What its call needs.
        arrived_s: When it arrived, on the monotonic clock; the time that it waited before, in other
            turns, is taken off.
        answer: Its lease, or why it gets none.
    """

    lease_request: LeaseRequest
    arrived_s: float
    answer: "asyncio.Future[Answer]"

    def has_answer(self) -> bool:
        """Whether it has a lease or knows why not; an error or a cancel is not an answer."""
        return (
            self.answer.done() and not self.answer.cancelled() and self.answer.exception() is None
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn to ask for a lease.

    Attributes:
        waiter: The job that it is used for.
        since_s: When the job came that stands at this place of the queue, on the monotonic clock.
            Where tenants take turns, that is another job than the one which asks.
        next_since_s: The same for the next place; None: it is the last one.
    """

    waiter: Waiter
    since_s: float
    next_since_s: float | None

    def request_at(self, now_s: float) -> LeaseRequest:
        """Return what is asked of the pool at an instant of the monotonic clock."""
        waited_ms = max(0, round((now_s - self.since_s) * 1000))
        return replace(self.waiter.lease_request, waited_ms=waited_ms)


@dataclass(slots=True, eq=False)
class WaitQueue:
    """Jobs that the same keys may serve, the one that arrived first in front.

    Attributes:
        wait_list: The name of their wait list in Redis; empty: they have none.
        bulk: They are bulk jobs.
        resources: What they need access to: models, or a from-domain.
        waiters: The jobs.
        asking: How many jobs ask the pool without having waited.
        entered: This process stands in the wait list.
        smallest: The fewest tokens that the pool had no room for; None: it refused nothing.
        reason: Why the latest request got no lease.
        until_call_ends: A call that ends may make room.
        resting_until_s: No key may be called until then, on the monotonic clock.
        used_s: When a job arrived last.
        granted_s: When jobs got leases, within the latest horizon.
        sent_back: The jobs that went back to the broker because the queue was full, each with the
            instant at which it comes again, in that order.
        server: The task that asks for the jobs.
        woken: Set when something has changed.
        tenants: Whose turn it is.
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
        """What jobs it holds."""
        return self.resources, self.bulk

    def is_in_use(self, now_s: float) -> bool:
        """Whether a job arrived lately, or would have, were the keys not at rest."""
        return self.used_s > now_s - _USED_S or self.resting_until_s > now_s

    @property
    def is_idle(self) -> bool:
        """Whether no job waits, asks or is about to come back."""
        return not (self.waiters or self.asking or self.server or self.sent_back)

    def may_fit(self, lease_request: LeaseRequest) -> bool:
        """Whether a request is smaller than all that the pool had no room for."""
        return self.smallest is None or lease_request.tokens < self.smallest

    def add(self, waiter: Waiter) -> None:
        """Let a job wait behind those that arrived before it."""
        insort(self.waiters, waiter, key=lambda waiting: waiting.arrived_s)

    def drop(self, waiter: Waiter) -> None:
        """Take a job out that does not wait any more."""
        # Retrieved here: a job that was cancelled does not do it, and asyncio would complain.
        if not waiter.answer.cancel() and not waiter.answer.cancelled():
            waiter.answer.exception()
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            if not self.waiters:
                self.woken.set()

    def next_to_ask(self, width: int) -> Iterator[Turn]:
        """Yield the next few turns.

        Where the pool had no room for a job, only smaller ones follow.

        Args:
            width: The most turns.
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
            False where the job does not wait any more: its lease must go back.
        """
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        if waiter.answer.done():
            return False
        if isinstance(answer, Deferred):
            # Each job raises an error of its own: a shared one would gather all their tracebacks.
            answer = Deferred(answer.countdown_ms, answer.reason, answer.code, answer.ends_in_ms)
        if isinstance(answer, Lease):
            self.tenants.note_granted(waiter.lease_request.tenant)
        if isinstance(answer, BaseException):
            waiter.answer.set_exception(answer)
        else:
            waiter.answer.set_result(answer)
        return True

    def note_refusal(self, lease_request: LeaseRequest, no_lease: NoLease) -> None:
        """Remember that the pool had no room for a request: only a smaller one may fit."""
        self.until_call_ends |= (
            # Limits are not known yet, or what a call leaves of its tokens makes room.
            no_lease.why is NoLeaseReason.BUSY or no_lease.first_in_ms > 1.5 * HORIZON_MS
        )
        self.reason = no_lease.reason
        tokens = lease_request.tokens
        self.smallest = tokens if self.smallest is None else min(tokens, self.smallest)

    async def pause(self, pause_s: float) -> None:
        """Wait for a while, or until the queue is woken and a moment more."""
        try:
            async with asyncio.timeout(pause_s):
                await self.woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_SETTLE_S)
