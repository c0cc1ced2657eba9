"""Lets the jobs of this process wait for a key of one service.

Jobs that the same keys may serve form a wait queue, which is served in the order of their arrival.

A job waits here only if a key will soon have room. Other jobs stay in the broker
(`worker.hooks.backpressure`). A job goes back to the broker at once in two cases: no key may be
called for long, or its wait queue is full while jobs of another kind, behind it in the broker, can
be served.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Container
from contextlib import suppress
from contextvars import Context

from redis.exceptions import RedisError

from worker.aio.errors import Revoked
from worker.errors import Deferred
from worker.keypool import KeyPool, Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.redis.later import send_later
from worker.redis.retry import retry_while_down
from worker.rotation.demand import Demand
from worker.rotation.overflow import Overflow
from worker.rotation.wait_queue import Answer, Shape, Turn, Waiter, WaitQueue
from worker.verdicts import ABANDONED

_WIDTH = 8
"""How many requests for leases are sent at once, so that their round trips overlap."""
_WAIT = frozenset({NoLeaseReason.WAIT, NoLeaseReason.BUSY})
_DISABLED_S = 60.0
"""How often jobs ask for a key while a person must bring back or add one, in seconds."""
_MOST_QUEUES = 1_000

_ENDING = NoLease(NoLeaseReason.WAIT, reason="this worker shuts down")


class WaitList:
    """Gives the leases of a pool to the jobs of this process, in the order of their arrival.

    Args:
        pool: The keys of the service.
    """

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool
        self._id = os.urandom(6).hex()
        self._queues: dict[Shape, WaitQueue] = {}
        self._closed = False
        self._changed = asyncio.Event()
        self._starting: dict[asyncio.Future[bool], str] = {}
        self.demand = Demand(self._queues)
        self.overflow = Overflow(self._queues, self.demand)

    @property
    def is_used(self) -> bool:
        """Whether a job waits."""
        return any(queue.waiters for queue in self._queues.values())

    async def acquire(
        self, lease_request: LeaseRequest, *, in_turn: bool = True, longest_s: float | None = None
    ) -> Answer:
        """Wait for a lease.

        Args:
            lease_request: What the call needs of a key.
            in_turn: The job takes its turn among the jobs of all processes. False: it takes any
                lease that it can get, because a key was refused to it a moment ago, or because only
                one account may serve it.
            longest_s: The longest wait, in seconds; None: no limit.

        Returns:
            A lease, or the reason for none: `NoLeaseReason.WAIT` or `NoLeaseReason.BUSY` if the
            time was over.

        Raises:
            Deferred: Redis does not answer.
        """
        queue, began_s = self._queue(lease_request, in_turn=in_turn), time.monotonic()
        queue.used_s = began_s
        if lease_request.tenant:
            self.demand.note_tenant()
        if queue.waiters or queue.asking >= _WIDTH or not queue.may_fit(lease_request):
            return await self._wait(queue, lease_request, began_s, longest_s)
        if not queue.asking:
            queue.woken.clear()
        queue.asking += 1
        try:
            answer = await retry_while_down(
                lambda: self._pool.acquire(lease_request, self._line(queue, None))
            )
        finally:
            queue.asking -= 1
        if isinstance(answer, Lease) or answer.why not in _WAIT:
            self._note(queue, answer)
            return answer
        queue.entered, queue.smallest, queue.until_call_ends = bool(queue.wait_list), None, False
        queue.note_refusal(lease_request, answer)
        pause_s = answer.ask_in_ms / 1000
        return await self._wait(queue, lease_request, began_s, longest_s, pause_s=pause_s)

    def notify_ended(self) -> None:
        """Ask again for the queues in which the end of a call of this process may make room."""
        for queue in self._queues.values():
            if queue.until_call_ends:
                queue.woken.set()

    def close(self) -> None:
        """End all waits, because this worker ends and other workers continue with the jobs."""
        self._closed = True
        self.overflow.close()
        for queue in self._queues.values():
            for waiter in list(queue.waiters):
                queue.deliver(waiter, _ENDING)
            queue.woken.set()

    def cancel(self, ids: Container[str]) -> None:
        """End the wait of cancelled jobs for a lease or its instant. Each raises `Revoked`."""
        for queue in list(self._queues.values()):
            for waiter in [waiter for waiter in queue.waiters if waiter.lease_request.by in ids]:
                queue.deliver(waiter, Revoked())
            queue.woken.set()
        for start in [start for start, job in self._starting.items() if job in ids]:
            _end(start, cancelled=True)

    async def await_start(self, lease: Lease) -> None:
        """Wait for the instant at which the call of a lease may begin.

        Raises:
            Revoked: The job is cancelled.
        """
        loop = asyncio.get_running_loop()
        start: asyncio.Future[bool] = loop.create_future()
        self._starting[start] = lease.request.by
        timer = loop.call_later(lease.wait_ms / 1000, _end, start)
        try:
            if await start:
                raise Revoked
        finally:
            timer.cancel()
            del self._starting[start]

    def wake(self) -> None:
        """Ask again now, because the state of the keys has changed, here or elsewhere."""
        self._changed.set()
        self._changed = asyncio.Event()
        for queue in self._queues.values():
            queue.resting_until_s = 0.0
            queue.woken.set()

    async def pause(self, longest_s: float) -> None:
        """Wait for a while, or until the state of the keys has changed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._changed.wait()

    def _queue(self, lease_request: LeaseRequest, *, in_turn: bool) -> WaitQueue:
        shape = (
            lease_request.models,
            lease_request.bulk,
            lease_request.account,
            lease_request.exclude,
            lease_request.exclude_accounts,
        )
        queue = self._queues.get(shape)
        if queue is None:
            if len(self._queues) > _MOST_QUEUES:
                for idle in [shape for shape, queue in self._queues.items() if queue.is_idle]:
                    del self._queues[idle]
            resources = tuple(resource for _, resource in lease_request.models)
            name = _wait_list_of(lease_request) if in_turn else ""
            queue = self._queues[shape] = WaitQueue(name, lease_request.bulk, resources)
        return queue

    def _line(self, queue: WaitQueue, next_since_s: float | None) -> Line | None:
        if not queue.wait_list:
            return None
        next_ms = None if next_since_s is None else round((time.monotonic() - next_since_s) * 1000)
        return Line(queue.wait_list, self._id, next_waited_ms=next_ms, entered=queue.entered)

    async def _wait(
        self,
        queue: WaitQueue,
        lease_request: LeaseRequest,
        began_s: float,
        longest_s: float | None,
        *,
        pause_s: float = 0.0,
    ) -> Answer:
        if self._closed:
            return _ENDING
        arrived_s = began_s - lease_request.waited_ms / 1000
        waiter = Waiter(lease_request, arrived_s, asyncio.get_running_loop().create_future())
        queue.add(waiter)
        self.overflow.relieve(queue)
        if queue.server is None:
            # A context of its own, because the task does not belong to the job that came first.
            queue.server = asyncio.get_running_loop().create_task(
                self._serve(queue, pause_s), context=Context()
            )
        elif queue.smallest is not None and queue.may_fit(lease_request):
            queue.woken.set()
        try:
            async with asyncio.timeout(longest_s):
                return await waiter.answer
        except TimeoutError:
            if waiter.has_answer():
                return waiter.answer.result()
            return NoLease(NoLeaseReason.WAIT, reason=queue.reason)
        except asyncio.CancelledError:
            if waiter.has_answer() and isinstance(lease := waiter.answer.result(), Lease):
                await asyncio.shield(self._give_back(lease))
            raise
        finally:
            queue.drop(waiter)

    async def _serve(self, queue: WaitQueue, pause_s: float) -> None:
        """Ask the pool for the jobs of a queue until no job is left."""
        try:
            while queue.waiters:
                if pause_s > 0:
                    await queue.pause(pause_s)
                pause_s = await self._ask_in_order(queue)
        except Exception as exc:  # a bug, which must not leave jobs waiting
            for waiter in list(queue.waiters):
                queue.deliver(waiter, exc)
            raise
        finally:
            queue.server, queue.smallest = None, None
            if queue.entered:
                queue.entered = False
                await self._leave(queue)

    async def _ask_in_order(self, queue: WaitQueue) -> float:
        """Ask the pool for the first jobs until it has no room.

        Returns:
            In how many seconds to ask again.
        """
        pause_s, width = 0.0, 1
        queue.smallest, queue.until_call_ends = None, False
        queue.woken.clear()
        # A cancelled job that has not run since is still in the queue.
        queue.waiters[:] = [waiter for waiter in queue.waiters if not waiter.answer.done()]
        while batch := list(queue.next_to_ask(width)):
            requests = [self._ask(queue, turn) for turn in batch]
            refused = False
            for turn, answer in zip(batch, await asyncio.gather(*requests), strict=True):
                if isinstance(answer, NoLease) and answer.why in _WAIT:
                    refused = True
                    pause_s = min(pause_s or answer.ask_in_ms / 1000, answer.ask_in_ms / 1000)
                    queue.note_refusal(turn.waiter.lease_request, answer)
                else:
                    await self._hand_over(queue, turn.waiter, answer)
            width = 1 if refused else min(_WIDTH, 2 * width)
        return pause_s

    async def _ask(self, queue: WaitQueue, turn: Turn) -> Answer | Exception:
        line = self._line(queue, turn.next_since_s)
        if line is not None:
            queue.entered = True
        try:
            lease_request = turn.request_at(time.monotonic())
            return await retry_while_down(lambda: self._pool.acquire(lease_request, line))
        except Exception as exc:  # noqa: BLE001 - the job raises it
            return exc

    async def _hand_over(
        self, queue: WaitQueue, waiter: Waiter, answer: Answer | Exception
    ) -> None:
        """Give a job its answer. A long refusal also goes to all jobs that would get the same."""
        if isinstance(answer, Lease):
            self._note(queue, answer)
            if not queue.deliver(waiter, answer):
                await self._give_back(answer)
            return
        least, alike = waiter.lease_request, list[Waiter]()
        if isinstance(answer, NoLease):
            self._note(queue, answer)
            alike = [other for other in queue.waiters if other.lease_request.is_as_large_as(least)]
        elif isinstance(answer, Deferred):  # Redis is down for all of them
            alike = list(queue.waiters)
        for served in dict.fromkeys((waiter, *alike)):
            queue.deliver(served, answer)

    def _note(self, queue: WaitQueue, answer: Answer) -> None:
        if isinstance(answer, Lease):
            self.demand.note_granted(queue)
            return
        rests_s = {
            NoLeaseReason.RESTING: answer.first_in_ms / 1000,
            NoLeaseReason.DISABLED: _DISABLED_S,
            NoLeaseReason.NO_KEYS: _DISABLED_S,
        }.get(answer.why, 0.0)
        if rests_s and queue.wait_list:
            queue.resting_until_s = time.monotonic() + rests_s
            self.demand.report_full()

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._pool.settle(lease, ABANDONED)
        except (RedisError, OSError) as exc:
            send_later(lambda: self._pool.settle(lease, ABANDONED), exc)  # else the lease expires

    async def _leave(self, queue: WaitQueue) -> None:
        try:
            await self._pool.leave(Line(queue.wait_list, self._id))
        except (RedisError, OSError):
            return  # the place in the wait list expires


def _end(start: "asyncio.Future[bool]", *, cancelled: bool = False) -> None:
    if not start.done():
        start.set_result(cancelled)


def _wait_list_of(lease_request: LeaseRequest) -> str:
    """Name the wait list of jobs that the same keys may serve. All processes use the same name."""
    name = lease_request.model
    resource = "" if lease_request.resource == name else lease_request.resource
    others = (
        sorted(lease_request.exclude),
        sorted(lease_request.exclude_accounts),
        lease_request.account,
        resource,
        lease_request.fallbacks,
    )
    if any(others):
        name += "/" + hashlib.sha256(repr(others).encode()).hexdigest()[:12]
    return f"{name} bulk" if lease_request.bulk else name or "/"
