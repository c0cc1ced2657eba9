"""The jobs of this process that wait for a key of one service.

In lines, each served in the order of their coming.

A job waits here only while a key is about to have room; the others stay in the broker
(`worker.hooks.backpressure`). Where no key may be called for long a job is told so at once, and goes back
to its queue; so does one whose line is full while jobs of another kind are served, since those
stand behind it in the queue.
"""

import asyncio
import hashlib
import os
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Awaitable, Callable, Container, Iterable
from contextvars import Context

from redis.exceptions import RedisError

from worker.aio.errors import Revoked
from worker.errors import Deferred
from worker.keypool import HORIZON_MS, KeyPool, Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.redis.retry import retry_while_down
from worker.rotation.waitlist_lane import (
    Lane,
    Resources,
    Shape,
    Waiter,
    is_told,
    next_to_ask,
    pause_until_woken,
    tell,
)
from worker.verdicts import ABANDONED

_WIDTH = 8  # asks on their way at once: enough to keep the round trips overlapping
_SOON = frozenset({NoLeaseReason.WAIT, NoLeaseReason.BUSY})
_OUT_S = 60.0  # keys that a person must bring back are asked for again after so long
_USED_S = 10.0  # a line that no job came for lately is not looked at
_BEHIND_S = 2.5  # what was seen in the queue is known for so long
_LONGEST_BACK_S = 60.0
_RECALL_S = 0.25
_LEAST_ROOM = 8
_MANY = 10_000
_MOST_LANES = 1_000

_ENDING = NoLease(NoLeaseReason.WAIT, reason="this worker shuts down")


class WaitList:
    """Hands the leases of a pool to the jobs of this process, first come, first served.

    Args:
        pool: The service's keys.
    """

    def __init__(self, pool: KeyPool) -> None:
        self._pool = pool
        self._id = os.urandom(6).hex()
        self._lanes: dict[Shape, Lane] = {}
        self._closed = False
        self._granted_s: deque[float] = deque(maxlen=_MANY)
        self._behind: dict[
            tuple[Resources, bool], float
        ] = {}  # when jobs of a kind were seen in the queue
        self._recalling: asyncio.Task[None] | None = None
        self.pressed: Callable[[], None] | None = None
        """Called when more jobs wait than there is room for, and when no key may be called for long."""
        self.recall: Callable[[list[str]], Awaitable[None]] | None = None
        """Called with jobs that were sent back for want of a place, when there is one."""

    async def acquire(
        self, lease_request: LeaseRequest, *, in_turn: bool = True, longest_s: float | None = None
    ) -> Lease | NoLease:
        """Wait for a lease.

        Args:
            lease_request: What the call needs.
            in_turn: The job stands in line with those of other processes. False: it was refused a
                moment ago, or only one account may serve it, so it takes what it can get.
            longest_s: The longest wait, in seconds; None: however long it takes.

        Returns:
            A lease, or why there is none: with `NoLeaseReason.WAIT` or `NoLeaseReason.BUSY` the time was over.

        Raises:
            Deferred: Redis does not answer.
        """
        lane, began_s = self._lane(lease_request, in_turn=in_turn), time.monotonic()
        lane.came_s = began_s
        if (
            not lane.waiters
            and lane.asking < _WIDTH
            and (lane.smallest is None or lease_request.tokens < lane.smallest)
        ):
            if not lane.asking:
                lane.woken.clear()
            lane.asking += 1
            try:
                got = await retry_while_down(
                    lambda: self._pool.acquire(lease_request, self._line(lane, None))
                )
            finally:
                lane.asking -= 1
            if isinstance(got, Lease) or got.why not in _SOON:
                self._note(lane, got)
                return got
            lane.entered, lane.busy = bool(lane.wait_list), _hangs_on_calls(got)
            lane.smallest, lane.reason = lease_request.tokens, got.reason
            return await self._wait(
                lane, lease_request, began_s, longest_s, pause_s=got.ask_in_ms / 1000
            )
        return await self._wait(lane, lease_request, began_s, longest_s)

    def notify_ended(self) -> None:
        """A call of this process has ended, so there may be room before the time that was told."""
        for lane in self._lanes.values():
            if lane.busy:
                lane.woken.set()

    def close(self) -> None:
        """Have nobody wait any more: this worker ends, and others go on with the jobs."""
        self._closed = True
        for lane in self._lanes.values():
            for waiter in list(lane.waiters):
                tell(lane, waiter, _ENDING)
            lane.woken.set()

    def cancel(self, ids: Container[str]) -> None:
        """End the wait of jobs that are cancelled: each raises `Revoked`."""
        for lane in list(self._lanes.values()):
            for waiter in [one for one in lane.waiters if one.lease_request.by in ids]:
                tell(lane, waiter, Revoked())
            lane.woken.set()

    def wake(self) -> None:
        """Ask again now: what was known of the keys has changed, here or elsewhere."""
        for lane in self._lanes.values():
            lane.resting_until_s = 0.0
            lane.woken.set()

    def count(self, *, bulk: bool) -> int:
        """How many jobs stand in line."""
        return sum(len(lane.waiters) for lane in list(self._lanes.values()) if lane.bulk is bulk)

    def crowd(self, *, bulk: bool) -> int:
        """How many jobs stand in the shortest line of those that may be served and that jobs are coming for."""
        now_s = time.monotonic()
        lanes, strangers = self._expected(bulk=bulk)
        return (
            0
            if strangers
            else min((len(one.waiters) for one in lanes if one.resting_until_s < now_s), default=0)
        )

    def expect(self, kinds: Iterable[tuple[Resources, bool]]) -> None:
        """Jobs of these kinds stand in the queue: for these models, bulk or not.

        Those of them that may be served are to come past the others. May be called from any thread.
        """
        now_s = time.monotonic()
        self._behind = {
            kind: at_s for kind, at_s in self._behind.items() if at_s > now_s - _BEHIND_S
        }
        self._behind |= dict.fromkeys(kinds, now_s)

    def holds_up(self) -> bool:
        """Whether jobs of one kind may keep others in the queue from their keys."""
        now_s = time.monotonic()
        lanes = [lane for lane in list(self._lanes.values()) if lane.wait_list]
        if any(lane.resting_until_s > now_s for lane in lanes):
            return True
        longest = max((len(lane.waiters) for lane in lanes), default=0)
        return longest > 0 and longest >= self.room() // 2

    def _expected(self, *, bulk: bool | None = None) -> tuple[list[Lane], bool]:
        """The lines that jobs are coming for, and whether some are coming that no line has stood for yet.

        Where nothing is known of the queue it is those that jobs came for lately.
        """
        now_s = time.monotonic()
        lanes = [
            lane
            for lane in list(self._lanes.values())
            if lane.wait_list and bulk in {lane.bulk, None}
        ]
        seen = {
            kind
            for kind, at_s in self._behind.items()
            if at_s > now_s - _BEHIND_S and bulk in {kind[1], None}
        }
        if not seen:
            return [
                lane
                for lane in lanes
                if lane.came_s > now_s - _USED_S or lane.resting_until_s > now_s
            ], False
        found = [lane for lane in lanes if (lane.resources, lane.bulk) in seen]
        return found, bool(seen - {(lane.resources, lane.bulk) for lane in found})

    def room(self) -> int:
        """How many jobs may wait in a line.

        As many as got leases within the last horizon, and always a few.
        """
        since_s = time.monotonic() - HORIZON_MS / 1000
        granted_s = list(self._granted_s)  # it grows meanwhile, where another thread asks
        return max(_LEAST_ROOM, len(granted_s) - bisect_left(granted_s, since_s))

    def resting_s(self) -> float:
        """For how long none of the jobs that came lately can be served, in seconds.

        0 where one can.
        """
        lanes, strangers = self._expected()
        if strangers:
            return 0.0
        return max(
            0.0, min((lane.resting_until_s for lane in lanes), default=0.0) - time.monotonic()
        )

    def _lane(self, lease_request: LeaseRequest, *, in_turn: bool) -> Lane:
        shape = (
            lease_request.models,
            lease_request.bulk,
            lease_request.account,
            lease_request.exclude,
            lease_request.exclude_accounts,
        )
        lane = self._lanes.get(shape)
        if lane is None:
            if len(self._lanes) > _MOST_LANES:
                self._forget_idle()
            resources = tuple(resource for _, resource in lease_request.models)
            lane = self._lanes[shape] = Lane(
                _wait_list(lease_request) if in_turn else "", lease_request.bulk, resources
            )
        return lane

    def _forget_idle(self) -> None:
        for shape, lane in list(self._lanes.items()):
            if not lane.waiters and not lane.asking and lane.server is None and not lane.back:
                del self._lanes[shape]

    def _make_room(self, lane: Lane) -> None:
        """See to it that a job of another kind can be served, and that no more of this one are taken."""
        room, shortest = self.room(), self.crowd(bulk=lane.bulk)
        if shortest <= room // 2 and len(lane.waiters) > room:
            self._send_back(lane)  # others stand behind it in the queue
        elif shortest == room:
            self._press()

    def _send_back(self, lane: Lane) -> None:
        """Have the youngest job of a full line come again when those before it are served, or once there is room."""
        now_s = time.monotonic()
        while lane.granted_s and lane.granted_s[0] < now_s - HORIZON_MS / 1000:
            lane.granted_s.popleft()
        step_s = HORIZON_MS / 1000 / max(1, len(lane.granted_s))
        last_s = lane.back[-1][0] if lane.back else 0.0
        back_s = min(
            max(last_s, now_s + len(lane.waiters) * step_s) + step_s, now_s + _LONGEST_BACK_S
        )
        youngest = lane.waiters[-1]
        lane.back.append((back_s, youngest.lease_request.by))
        away_ms = round((back_s - now_s) * 1000)
        tell(
            lane,
            youngest,
            NoLease(
                NoLeaseReason.RESTING, first_in_ms=away_ms, reason="many jobs of its kind wait"
            ),
        )
        if self._recalling is None and self.recall is not None:
            self._recalling = asyncio.get_running_loop().create_task(
                self._recall(self.recall), context=Context()
            )

    async def _recall(self, recall: Callable[[list[str]], Awaitable[None]]) -> None:
        """Call jobs that were sent back as soon as there is room for them, though their time has not come."""
        try:
            while not self._closed and any(lane.back for lane in list(self._lanes.values())):
                await asyncio.sleep(_RECALL_S)
                ids = [by for lane in list(self._lanes.values()) for by in self._missed(lane)]
                if ids:
                    await recall(ids)
        finally:
            self._recalling = None

    def _missed(self, lane: Lane) -> list[str]:
        """The jobs that a line has room for; those whose time has come, come by themselves."""
        now_s = time.monotonic()
        while lane.back and lane.back[0][0] < now_s:
            lane.back.popleft()
        if lane.resting_until_s > now_s or len(lane.waiters) > self.room() * 3 // 4:
            return []
        return [
            lane.back.popleft()[1]
            for _ in range(min(len(lane.back), self.room() - len(lane.waiters)))
        ]

    def _line(self, lane: Lane, behind: Waiter | None) -> Line | None:
        if not lane.wait_list:
            return None
        next_ms = (
            None if behind is None else max(0, round((time.monotonic() - behind.came_s) * 1000))
        )
        return Line(lane.wait_list, self._id, next_waited_ms=next_ms, entered=lane.entered)

    async def _wait(
        self,
        lane: Lane,
        lease_request: LeaseRequest,
        began_s: float,
        longest_s: float | None,
        *,
        pause_s: float = 0.0,
    ) -> Lease | NoLease:
        if self._closed:
            return _ENDING
        waiter = Waiter(
            lease_request,
            began_s - lease_request.waited_ms / 1000,
            asyncio.get_running_loop().create_future(),
        )
        insort(lane.waiters, waiter, key=lambda one: one.came_s)
        self._make_room(lane)
        if lane.server is None:
            # It belongs to no job, whichever came first.
            lane.server = asyncio.get_running_loop().create_task(
                self._serve(lane, pause_s), context=Context()
            )
        elif lane.smallest is not None and lease_request.tokens < lane.smallest:
            lane.woken.set()
        try:
            async with asyncio.timeout(longest_s):
                return await waiter.got
        except TimeoutError:
            return (
                waiter.got.result()
                if is_told(waiter)
                else NoLease(NoLeaseReason.WAIT, reason=lane.reason)
            )
        except asyncio.CancelledError:
            if is_told(waiter) and isinstance(lease := waiter.got.result(), Lease):
                await asyncio.shield(self._give_back(lease))
            raise
        finally:
            if not waiter.got.cancel() and not waiter.got.cancelled():
                waiter.got.exception()  # it is known now, should nobody have waited for it
            if waiter in lane.waiters:
                lane.waiters.remove(waiter)
                if not lane.waiters:
                    lane.woken.set()

    async def _serve(self, lane: Lane, pause_s: float) -> None:
        """Ask for those in line until none is left."""
        try:
            while lane.waiters:
                if pause_s > 0:
                    await pause_until_woken(lane, pause_s)
                pause_s = await self._ask_in_order(lane)
        except Exception as exc:  # a bug: it must not leave them waiting
            for waiter in list(lane.waiters):
                tell(lane, waiter, exc)
            raise
        finally:
            lane.server, lane.smallest, lane.busy = None, None, False
            if lane.entered:
                lane.entered = False
                await self._leave(lane)

    async def _ask_in_order(self, lane: Lane) -> float:
        """Ask for the first ones until there is no room; returns when to ask again, in seconds."""
        pause_s, width = 0.0, 1
        lane.smallest, lane.busy = None, False
        lane.woken.clear()
        lane.waiters[:] = [
            one for one in lane.waiters if not one.got.done()
        ]  # who was stopped may not have run yet
        while batch := list(next_to_ask(lane, width)):
            asked = [self._ask(lane, waiter, behind) for waiter, behind in batch]
            vain = 0
            for (waiter, _), got in zip(batch, await asyncio.gather(*asked), strict=True):
                if isinstance(got, NoLease) and got.why in _SOON:
                    vain += 1
                    pause_s = min(pause_s or got.ask_in_ms / 1000, got.ask_in_ms / 1000)
                    lane.busy, lane.reason = lane.busy or _hangs_on_calls(got), got.reason
                    lane.smallest = min(
                        waiter.lease_request.tokens, lane.smallest or waiter.lease_request.tokens
                    )
                    if lane.smallest == 0:
                        return pause_s
                else:
                    await self._hand_over(lane, waiter, got)
            width = 1 if vain else min(_WIDTH, 2 * width)
        return pause_s

    async def _ask(
        self, lane: Lane, waiter: Waiter, behind: Waiter | None
    ) -> Lease | NoLease | Exception:
        line = self._line(lane, behind)
        if line is not None:
            lane.entered = True
        try:
            lease_request = waiter.asks(time.monotonic())
            return await retry_while_down(lambda: self._pool.acquire(lease_request, line))
        except Exception as exc:  # noqa: BLE001 - it is the job's to raise
            return exc

    async def _hand_over(
        self, lane: Lane, waiter: Waiter, got: Lease | NoLease | Exception
    ) -> None:
        """Tell a job what it got.

        Where that is nothing for long, also those that would be told the same.
        """
        if isinstance(got, Lease):
            self._note(lane, got)
            if not tell(lane, waiter, got):
                await self._give_back(got)
            return
        least, alike = waiter.lease_request, list[Waiter]()
        if isinstance(got, NoLease):
            self._note(lane, got)
            alike = [one for one in lane.waiters if one.lease_request.is_as_large_as(least)]
        elif isinstance(got, Deferred):  # Redis is away for everybody
            alike = list(lane.waiters)
        for one in dict.fromkeys((waiter, *alike)):
            tell(lane, one, got)

    def _note(self, lane: Lane, got: Lease | NoLease) -> None:
        if isinstance(got, Lease):
            self._granted_s.append(time.monotonic())
            lane.granted_s.append(self._granted_s[-1])
            if len(lane.granted_s) > _MANY:
                lane.granted_s.popleft()
            while self._granted_s[0] < self._granted_s[-1] - HORIZON_MS / 1000:
                self._granted_s.popleft()
            lane.resting_until_s = 0.0
            return
        rests_s = {
            NoLeaseReason.RESTING: got.first_in_ms / 1000,
            NoLeaseReason.DISABLED: _OUT_S,
            NoLeaseReason.NO_KEYS: _OUT_S,
        }.get(got.why, 0.0)
        if rests_s and lane.wait_list:
            lane.resting_until_s = time.monotonic() + rests_s
            self._press()

    def _press(self) -> None:
        if self.pressed is not None:
            self.pressed()

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._pool.settle(lease, ABANDONED)
        except (RedisError, OSError):
            return  # it expires by itself

    async def _leave(self, lane: Lane) -> None:
        try:
            await self._pool.leave(Line(lane.wait_list, self._id))
        except (RedisError, OSError):
            return  # it counts as late soon


def _hangs_on_calls(got: NoLease) -> bool:
    """Whether a call that ends may make room.

    Limits are not known yet, or what it leaves of its tokens counts.
    """
    return got.why is NoLeaseReason.BUSY or got.first_in_ms > 1.5 * HORIZON_MS


def _wait_list(lease_request: LeaseRequest) -> str:
    """The name of the wait list for jobs that the same keys may serve, the same in each process."""
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
