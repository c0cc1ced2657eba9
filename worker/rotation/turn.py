"""Runs one turn of a job: calls with one key after another, until one serves.

A turn takes a lease, sends the request, lets the provider's client judge the answer, and settles
the lease with that verdict. If the key is certainly at fault, the turn tries the next key at once.
If the pool has no free key, the job is deferred. Everything else ends the turn.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from redis.exceptions import RedisError

from worker import attempts, telemetry
from worker.cancellations import EarlyLook, end_if_cancelled
from worker.errors import Deferred, RequestRejected, TransientError
from worker.keypool import KeyPool, Lease, LeaseRequest, NoLease, NoLeaseReason, Settled
from worker.logs import log_key_failed, log_key_used
from worker.providers.base import Provider
from worker.redis.retry import retry_while_down
from worker.rotation.call_counter import CallCounter
from worker.rotation.call_hooks import CallHooks
from worker.rotation.doubtful import DoubtfulRefusals
from worker.rotation.lease_settling import LeaseSettling
from worker.rotation.limiter import KeyedLimiter, Slot
from worker.rotation.no_lease import NoLeaseEnd, failure_of, rejection_of, spread_ms
from worker.rotation.served import Served
from worker.rotation.waitlist import WaitList
from worker.verdicts import ABANDONED, Dimension, Effect, Fate, Reply, Scope, Verdict

_logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")

_MOST_CALLS = 1_000
"""Far more than any real turn makes. A longer loop is a bug, and must end as an error."""
_RECHECK_MS = 50
"""The age from which a lease is confirmed before the call, in milliseconds."""

INTERRUPTED = Verdict(
    Fate.RETRY, "interrupted", "the job was stopped while the call was under way", definite=False
)


class Turn(Generic[RequestT]):
    """One pass of one job through the keys of a service.

    Args:
        pool: The keys of the service.
        provider: The client of the service.
        waiting: The jobs of this process that wait for a lease.
        sending: Limits how many requests are about to be written at once.
        before_call: Awaited before each call. If it raises an exception, the turn ends, and the
            lease goes back unused.
        lease_request: What each call needs of a key.
        hooks: The hooks around each call.
        longest_s: The longest wait for keys, in seconds; None: no limit.
        calls: Counts the calls.
    """

    def __init__(
        self,
        *,
        pool: KeyPool,
        provider: Provider[RequestT],
        waiting: WaitList,
        sending: KeyedLimiter,
        before_call: Callable[[], Awaitable[None]] | None,
        lease_request: LeaseRequest,
        hooks: CallHooks[RequestT],
        longest_s: float | None,
        calls: CallCounter,
    ) -> None:
        self.pool = pool
        self.provider = provider
        self.waiting = waiting
        self.sending = sending
        self.before_call = before_call
        self.began_s = time.monotonic()
        self.longest_s = longest_s
        self.lease_request = lease_request
        self.excluded = lease_request.exclude
        # Bulk requests and the others do not wait for each other's slots.
        self.limiter_key = f"{lease_request.model}{' bulk' if lease_request.bulk else ''}"
        self.hooks = hooks
        self.leases = LeaseSettling(pool, hooks)
        self.calls = calls
        self.attempts = 0
        self.waited_ms = 0
        self.turned_down: Verdict | None = None
        self.denied_model = ""
        self.closed = lease_request.exclude_accounts
        self.doubtful = DoubtfulRefusals()
        self.capped: set[str] = set()
        self.last: Verdict | None = None

    async def run(self) -> Served:
        """Call with one key after another until one serves.

        Raises:
            Rescheduled: The job comes back later.
            JobError: The job ends here.
        """
        # A job that has to wait for a lease looks for a cancellation after the wait.
        self.early = None if self.waiting.is_used else EarlyLook(self.lease_request.by)
        for _ in range(_MOST_CALLS):
            lease = await self._lease()
            slot = await self._slot(lease)
            if slot is None:
                continue
            try:
                value = await self._call(lease, slot)
            finally:
                slot.release()
            if value is not None:
                return Served(
                    value,
                    lease.key.label,
                    self.attempts,
                    self.waited_ms,
                    lease.request.model,
                )
        raise TransientError("no usable key was found in a reasonable number of tries")

    async def _lease(self) -> Lease:
        """Take a lease, or end the turn."""
        answer = await self._ask()
        while isinstance(answer, NoLease):
            if self.lease_request.fallbacks and self.lease_request.exclude_accounts != self.closed:
                # Some accounts have turned one model down, and the others cannot serve it. The
                # accounts that turned it down may serve the other models.
                self.lease_request = replace(
                    self.lease_request.without(self.denied_model), exclude_accounts=self.closed
                )
                answer = await self._ask()
                continue
            if self.lease_request.exclude == self.excluded:
                NoLeaseEnd(self.pool.service).end(
                    self.lease_request, answer, turned_down=self.turned_down, last=self.last
                )
            # The keys excluded in this turn were at fault, not the job: the job may wait for them.
            self.lease_request = replace(self.lease_request, exclude=self.excluded)
            answer = await self._ask_again()
        return answer

    async def _ask_again(self) -> Lease | NoLease:
        """Ask for a key that will have room later, after every key was refused.

        A key that seems to have room now was refused a moment ago, so the job is deferred.
        """
        answer = await retry_while_down(lambda: self.pool.acquire(self.lease_request, None))
        if isinstance(answer, Lease) and answer.wait_ms == 0:
            await self.leases.settle_shielded(answer, ABANDONED)
            raise Deferred(spread_ms(), "every key was refused a moment ago")
        if isinstance(answer, NoLease) and answer.why in {NoLeaseReason.WAIT, NoLeaseReason.BUSY}:
            return await self._ask()
        return answer

    async def _slot(self, lease: Lease) -> Slot | None:
        """Wait for the instant of the lease and for a slot.

        Returns:
            The slot; None if the lease has ended meanwhile, mostly because its key was blocked.
        """
        began_s = time.monotonic()
        slot, waits_for = None, lease
        try:
            while True:
                if waits_for.wait_ms > 0:
                    await self._wait(waits_for)
                slot = await self.sending.acquire(self.limiter_key)
                if lease.wait_ms == 0 and (time.monotonic() - began_s) * 1000 <= _RECHECK_MS:
                    return slot
                confirmed = await retry_while_down(lambda: self.pool.confirm(lease))
                if confirmed is not None and confirmed.wait_ms == 0:
                    return slot
                slot.release()
                if confirmed is None:
                    return None
                slot, waits_for = None, confirmed
        except BaseException:
            if slot is not None:
                slot.release()
            await self.leases.settle_shielded(lease, ABANDONED)
            raise

    async def _ask(self) -> Lease | NoLease:
        """Wait for a lease."""
        began_s = time.monotonic()
        spent_s = began_s - self.began_s
        lease_request = self.lease_request
        if spent_ms := round(spent_s * 1000):  # 0 unless the turn has had a lease before
            lease_request = replace(lease_request, waited_ms=lease_request.waited_ms + spent_ms)
        in_turn = self.lease_request.exclude == self.excluded and not self.lease_request.account
        try:
            return await self.waiting.acquire(
                lease_request,
                in_turn=in_turn,
                longest_s=None if self.longest_s is None else max(0.0, self.longest_s - spent_s),
            )
        finally:
            self.waited_ms += round((time.monotonic() - began_s) * 1000)
            telemetry.note_wait(self.pool.service, began_s=began_s)

    async def _wait(self, lease: Lease) -> None:
        began_s = time.monotonic()
        await self.waiting.await_start(lease)
        telemetry.note_wait(self.pool.service, began_s=began_s)
        self.waited_ms += lease.wait_ms

    async def _call(self, lease: Lease, slot: Slot) -> dict[str, Any] | None:
        """Make the call and act on the verdict. The slot is released once the bytes have left.

        Returns:
            The provider's answer; None if another key is to be tried.
        """
        try:
            await end_if_cancelled(self.lease_request.by, early=self.early)
            if self.before_call is not None:
                await self.before_call()
            request = await self.hooks.before(lease)
        except BaseException:
            await self.leases.settle_shielded(lease, ABANDONED)
            raise
        self.attempts += 1
        log_key_used(
            lease.key.label,
            service=self.pool.service,
            attempt=self.attempts,
            attempts=len(self.pool.keys),
        )
        began_s = time.monotonic()
        try:
            reply = await self.provider.call(lease.key.secret, request, sent=slot.release)
        except BaseException:
            # The job was cancelled (a time limit, a revoke, a shutdown), or there is a bug. The
            # provider may have carried out the call.
            self._note(lease, Reply(INTERRUPTED), began_s=began_s)
            await self.leases.conclude_shielded(lease, Reply(INTERRUPTED))
            raise
        self._note(lease, reply, began_s=began_s)
        try:
            again = reply.verdict.fate not in {Fate.DONE, Fate.FAIL}
            settled = await self.leases.conclude(lease, reply, retry=again)
        except asyncio.CancelledError:
            # The pool must learn the provider's answer although the job ends.
            await self.leases.conclude_shielded(lease, reply, again=True)
            raise
        self.waiting.notify_ended()
        await self._end_if_the_request_is_at_fault(lease, reply.verdict, settled)
        if settled and settled.newly and reply.verdict.effect in {Effect.COOL, Effect.DISABLE}:
            await self._report(lease)
        self.last = reply.verdict
        if reply.verdict.fate is Fate.DONE:
            return reply.value or {}
        self._act(lease, reply.verdict, settled)
        return None

    def _note(self, lease: Lease, reply: Reply, *, began_s: float) -> None:
        """Record a call that has ended, for the job and for the usage of its key."""
        verdict, waited_s = reply.verdict, began_s - self.began_s
        call = attempts.note(lease.key.label, verdict.code, in_doubt=not verdict.definite)
        telemetry.note_attempt(self.pool.service, call, began_s, lease.request.model)
        self.calls.call(
            lease,
            verdict,
            waited_ms=self.lease_request.waited_ms + round(waited_s * 1000),
            recipients=self.hooks.recipients(reply),
        )

    async def _end_if_the_request_is_at_fault(
        self, lease: Lease, verdict: Verdict, settled: Settled | None
    ) -> None:
        """End the turn if keys that serve other requests are refused for this one.

        The request is at fault if keys of two accounts are refused for it with the same code, and
        each key had served other jobs shortly before. The pool then reinstates these keys.
        """
        if leases := self.doubtful.note(lease, verdict, settled):
            await retry_while_down(lambda: self.pool.reinstate(leases))
            raise RequestRejected(
                f"keys that serve other requests are refused for this one: {verdict.reason}"
            )

    def _act(self, lease: Lease, verdict: Verdict, settled: Settled | None) -> None:
        """Go on with another key by returning, or end the turn."""
        match verdict.fate:
            case Fate.NEXT_KEY:
                # The pool rests the key; the exclusion bounds the turn in case the rest is short.
                # A request that must stay with its account excludes none of its keys: otherwise
                # the account would look gone.
                if not self.lease_request.account:
                    self.lease_request = replace(
                        self.lease_request, exclude=self.lease_request.exclude | {lease.key.id}
                    )
            case Fate.OTHER_ACCOUNT:
                self._leave_account(lease, verdict)
            case Fate.RETRY if verdict.scope is Scope.MODEL and self.lease_request.fallbacks:
                # This model is overloaded; another one may have capacity.
                self.lease_request = self.lease_request.without(lease.request.model)
            case Fate.RETRY | Fate.SAME_ACCOUNT:
                raise failure_of(verdict, settled)
            case _:
                raise rejection_of(verdict)

    def _leave_account(self, lease: Lease, verdict: Verdict) -> None:
        """Go on with another account, unless this one may serve if less is reserved."""
        if self._may_cap(lease, verdict):
            self.capped.add(lease.key.id)  # the pool knows the limit now, and reserves less
            return
        if self.lease_request.account:
            raise rejection_of(verdict)
        # Only one team has verified a from-domain, and it may be the last one that is tried. The
        # keys of the other teams are marked, so each is tried once.
        if verdict.scope is not Scope.KEY_RESOURCE and verdict.too_large_limit is None:
            self.turned_down = verdict
        if verdict.effect is Effect.UNFIT:  # the pool no longer uses that account for this model
            self.turned_down = verdict
            return
        self.denied_model = lease.request.model
        left = {verdict.account or lease.account, lease.account}
        self.lease_request = replace(
            self.lease_request, exclude_accounts=self.lease_request.exclude_accounts | left
        )

    def _may_cap(self, lease: Lease, verdict: Verdict) -> bool:
        """Return whether the same key may serve if less is reserved for the answer."""
        too_long = verdict.too_large_in is Dimension.OTPM and bool(verdict.too_large_limit)
        return self.lease_request.flexible and too_long and lease.key.id not in self.capped

    async def _report(self, lease: Lease) -> None:
        try:
            view = await self.pool.snapshot()
        except RedisError:
            return
        log_key_failed(lease.key.label, failed=view.failed, total=len(view.keys))
