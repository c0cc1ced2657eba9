"""Rotation: the only slot where the key pool and a provider meet.

Take a lease, send, let the provider judge the answer, settle the lease with that verdict. A key
that is definitely at fault means the next key at once; a pool that is exhausted means a deferral;
everything else ends the turn.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from redis.exceptions import RedisError

from worker import attempts
from worker.cancellations import end_if_cancelled
from worker.errors import (
    Deferred,
    OutcomeUnknown,
    RequestRejected,
    RequestTooLarge,
    Rescheduled,
    TransientError,
)
from worker.keypool import KeyPool, Lease, LeaseRequest, NoLease, NoLeaseReason, Settled
from worker.logs import log_key_failed, log_key_used
from worker.providers.base import Provider
from worker.redis.retry import retry_while_down
from worker.rotation.limiter import KeyedLimiter, Slot
from worker.rotation.waitlist import WaitList
from worker.verdicts import ABANDONED, Dimension, Effect, Fate, Reply, Scope, Verdict

_logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")
RequestT_co = TypeVar("RequestT_co", covariant=True)

_SPINS = (
    1_000  # far above any honest turn; a loop that long is a bug and must end as a fault, not hang
)
_RECHECK_MS = 50  # a lease that is older than this is checked again before the call
_NO_KEY_MS = 60_000  # all keys are out until a person acts: look again each minute
_CROWD_MS = 1_000

INTERRUPTED = Verdict(
    Fate.RETRY, "interrupted", "the job was stopped while the call was under way", definite=False
)


@dataclass(frozen=True, slots=True)
class Served:
    """A request that a provider carried out.

    Attributes:
        value: What the provider returned, for the caller.
        key: The label of the key that served.
        attempts: Calls made in this turn, the last one included.
        waited_ms: Time spent waiting for keys in this turn, in milliseconds.
    """

    value: dict[str, Any]
    key: str
    attempts: int
    waited_ms: int


class CallHooks(Protocol[RequestT_co]):
    """What is done before and after each call of a request that must not be carried out twice."""

    async def before(self, lease: Lease) -> RequestT_co:
        """Make the request for this lease's key, and write it down before a byte of it leaves.

        An exception ends the turn, and the lease goes back unused.
        """
        ...

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Write down what became of the request. Never raises for a Redis that is gone."""
        ...


class _NoHooks(Generic[RequestT]):
    """A request that may be repeated, so nothing is written down."""

    def __init__(self, build: Callable[[Lease], RequestT]) -> None:
        self._build = build

    async def before(self, lease: Lease) -> RequestT:
        return self._build(lease)

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Nothing to write down."""


class Rotation(Generic[RequestT]):
    """Serves requests of one service with whichever key may be used.

    Args:
        pool: The service's keys.
        provider: The service's wire.
        before_call: Awaited before each call; what it raises ends the turn, and the lease goes back
            unused.
    """

    def __init__(
        self,
        pool: KeyPool,
        provider: Provider[RequestT],
        *,
        before_call: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.pool = pool
        self.before_call = before_call
        self.provider = provider
        self.waiting = WaitList(pool)
        self.sending = KeyedLimiter()

    async def serve(
        self,
        lease_request: LeaseRequest,
        build: Callable[[Lease], RequestT],
        *,
        longest_s: float | None = None,
    ) -> Served:
        """Carry one request out, on as many keys as it takes.

        Args:
            lease_request: What the call needs of a key.
            longest_s: The longest wait for keys over the whole turn, in seconds; None: however long
                they take.
            build: Makes the request for a lease: for its key, and for what was reserved.

        Returns:
            The provider's answer and what it took.

        Raises:
            Deferred: No key can serve now; come back after its countdown.
            TransientError: The provider failed in a way that may pass.
            RequestRejected: The provider refuses the request for good.
            RequestTooLarge: No key's limit is as large as the request.
            OutcomeUnknown: An email's earlier attempt has an unknown outcome and its account is
                gone.
        """
        return await self.run(lease_request, _NoHooks(build), longest_s=longest_s)

    async def run(
        self,
        lease_request: LeaseRequest,
        hooks: CallHooks[RequestT],
        *,
        longest_s: float | None = None,
    ) -> Served:
        """As `serve`, with hooks around each call."""
        turn = _Turn(self, lease_request, hooks, longest_s=longest_s)
        try:
            return await turn.run()
        except Rescheduled as over:
            over.attempts, over.waited_ms = turn.attempts, turn.waited_ms
            raise


class _Turn(Generic[RequestT]):
    """One pass of one job through the keys."""

    def __init__(
        self,
        rotation: Rotation[RequestT],
        lease_request: LeaseRequest,
        hooks: CallHooks[RequestT],
        *,
        longest_s: float | None,
    ) -> None:
        self.pool = rotation.pool
        self.provider = rotation.provider
        self.waiting = rotation.waiting
        self.sending = rotation.sending
        self.before_call = rotation.before_call
        self.began_s = time.monotonic()
        self.longest_s = longest_s
        self.lease_request = lease_request
        self.shut_out = lease_request.exclude
        self.lane = (
            f"{lease_request.model} bulk" if lease_request.bulk else lease_request.model
        )  # neither stands behind the other
        self.hooks = hooks
        self.attempts = 0
        self.waited_ms = 0
        self.turned_down: Verdict | None = None
        self.denied_model = ""
        self.closed = lease_request.exclude_accounts
        self.doubtful: list[Lease] = []
        self.capped: set[str] = set()
        self.last: Verdict | None = None

    async def run(self) -> Served:
        for _ in range(_SPINS):
            lease = await self._lease()
            slot = await self._way_to_the_wire(lease)
            if slot is None:
                continue
            try:
                value = await self._call(lease, slot)
            finally:
                slot.release()
            if value is not None:
                return Served(value, lease.key.label, self.attempts, self.waited_ms)
        raise TransientError("no usable key was found in a reasonable number of tries")

    async def _lease(self) -> Lease:
        """Take a lease, or end the turn."""
        got = await self._ask()
        while isinstance(got, NoLease):
            if self.lease_request.fallbacks and self.lease_request.exclude_accounts != self.closed:
                # No account takes the one model that some have turned down; those may take the
                # others.
                self.lease_request = replace(
                    self.lease_request.without(self.denied_model), exclude_accounts=self.closed
                )
                got = await self._ask()
                continue
            if self.lease_request.exclude == self.shut_out:
                self._give_up(got)
            # Keys were at fault in this turn, which is no fault of the job: it waits for them like
            # the others.
            self.lease_request = replace(self.lease_request, exclude=self.shut_out)
            got = await self._ask_again()
        return got

    async def _ask_again(self) -> Lease | NoLease:
        """Ask for a key after each one was refused.

        For one that will have room, not for one that seems to have it.
        """
        got = await retry_while_down(lambda: self.pool.acquire(self.lease_request, None))
        if isinstance(got, Lease) and got.wait_ms == 0:
            await self._settle_whatever_happens(got, ABANDONED)
            raise Deferred(_spread(), "every key was refused a moment ago")
        if isinstance(got, NoLease) and got.why in {NoLeaseReason.WAIT, NoLeaseReason.BUSY}:
            return await self._ask()
        return got

    async def _way_to_the_wire(self, lease: Lease) -> Slot | None:
        """Wait for the instant of the lease and for a slot.

        Returns:
            The slot; None where the key was told to rest meanwhile.
        """
        began = time.monotonic()
        slot, waits = None, lease
        try:
            while True:
                if waits.wait_ms > 0:
                    await self._wait(waits)
                slot = await self.sending.acquire(self.lane)
                if lease.wait_ms == 0 and (time.monotonic() - began) * 1000 <= _RECHECK_MS:
                    return slot
                confirmed = await retry_while_down(lambda: self.pool.confirm(lease))
                if confirmed is not None and confirmed.wait_ms == 0:
                    return slot
                slot.release()
                if confirmed is None:
                    return None
                slot, waits = None, confirmed
        except BaseException:
            if slot is not None:
                slot.release()
            await self._settle_whatever_happens(lease, ABANDONED)
            raise

    async def _ask(self) -> Lease | NoLease:
        """Wait in line for a lease."""
        began_s = time.monotonic()
        spent_s = began_s - self.began_s
        lease_request = (
            replace(
                self.lease_request, waited_ms=self.lease_request.waited_ms + round(spent_s * 1000)
            )
            if self.attempts
            else self.lease_request
        )
        in_turn = self.lease_request.exclude == self.shut_out and not self.lease_request.account
        try:
            return await self.waiting.acquire(
                lease_request,
                in_turn=in_turn,
                longest_s=None if self.longest_s is None else max(0.0, self.longest_s - spent_s),
            )
        finally:
            self.waited_ms += round((time.monotonic() - began_s) * 1000)

    async def _wait(self, lease: Lease) -> None:
        await asyncio.sleep(lease.wait_ms / 1000)
        self.waited_ms += lease.wait_ms

    def _give_up(self, away: NoLease) -> NoReturn:
        match away.why:
            case NoLeaseReason.WAIT | NoLeaseReason.BUSY:
                raise Deferred(_spread(), away.reason)
            case NoLeaseReason.RESTING:
                raise Deferred(away.first_in_ms + random.randint(0, _CROWD_MS), away.reason)  # noqa: S311 - spreads a crowd
            case NoLeaseReason.DISABLED if self.turned_down:  # by every account that can be asked
                raise _rejection(self.turned_down)
            case NoLeaseReason.DISABLED:
                whose = " of its account" if self.lease_request.account else ""
                deferred = Deferred(
                    _NO_KEY_MS,
                    f"every {self.pool.service} key{whose} is disabled ({away.reason})",
                    "disabled",
                )
                deferred.for_good = True
                raise deferred
            case _:
                self._fail(away)

    def _fail(self, away: NoLease) -> NoReturn:
        match away.why:
            case NoLeaseReason.TOO_LARGE:
                raise RequestTooLarge(
                    _too_large_sentence(self.lease_request, away, service=self.pool.service)
                )
            case NoLeaseReason.GONE:
                raise OutcomeUnknown(
                    "an earlier attempt may have been accepted, and no key of its account is "
                    "configured any more"
                )
            case NoLeaseReason.UNFIT if self.turned_down:
                raise _rejection(self.turned_down)
            case NoLeaseReason.UNFIT:
                resources = (
                    ", ".join(resource for _, resource in self.lease_request.models)
                    or "the from address that is set for it"
                )
                raise RequestRejected(
                    f"no {self.pool.service} key may be used for {resources}: {away.reason}"
                )
        # Every key was tried in this turn, or none exists.
        if self.last is None:
            raise Deferred(
                _NO_KEY_MS, f"no {self.pool.service} key is configured for this job", "no_key"
            )
        if self.turned_down or self.last.fate is Fate.OTHER_ACCOUNT:
            raise _rejection(self.turned_down or self.last)
        raise TransientError(self.last.reason or self.last.code, self.last.backoff_ms)

    async def _call(self, lease: Lease, slot: Slot) -> dict[str, Any] | None:
        """Make the call and act on the verdict; None: the next key.

        The slot is free once the bytes have left.
        """
        try:
            await end_if_cancelled(self.lease_request.by)
            if self.before_call is not None:
                await self.before_call()
            request = await self.hooks.before(lease)
        except BaseException:
            await self._settle_whatever_happens(lease, ABANDONED)
            raise
        self.attempts += 1
        log_key_used(
            lease.key.label,
            service=self.pool.service,
            attempt=self.attempts,
            attempts=len(self.pool.keys),
        )
        try:
            reply = await self.provider.call(lease.key.secret, request, sent=slot.release)
        except BaseException:
            # Cancelled (a time limit, a revoke, a shutdown) or a bug: the call may have been
            # carried out.
            attempts.note(lease.key.label, INTERRUPTED.code, in_doubt=True)
            await self._conclude_whatever_happens(lease, Reply(INTERRUPTED))
            raise
        attempts.note(lease.key.label, reply.verdict.code, in_doubt=not reply.verdict.definite)
        try:
            patiently = reply.verdict.fate not in {Fate.DONE, Fate.FAIL}
            settled = await self._conclude(lease, reply, patiently=patiently)
        except asyncio.CancelledError:
            # What the provider said of the key outlives the job. A second settle of one lease
            # changes nothing.
            await self._conclude_whatever_happens(lease, reply)
            raise
        self.waiting.notify_ended()
        await self._blame(lease, reply.verdict)
        if settled and settled.newly and reply.verdict.effect in {Effect.COOL, Effect.DISABLE}:
            await self._report(lease)
        self.last = reply.verdict
        if reply.verdict.fate is Fate.DONE:
            return reply.value or {}
        self._act(lease, reply.verdict, settled)
        return None

    async def _blame(self, lease: Lease, verdict: Verdict) -> None:
        """End the turn where keys of two accounts that serve others are refused for what may be the request's fault."""
        if (
            verdict.certain
            or verdict.effect is not Effect.DISABLE
            or verdict.scope is not Scope.KEY
        ):
            return
        self.doubtful.append(lease)
        if len({one.account for one in self.doubtful}) > 1 and await retry_while_down(
            lambda: self.pool.absolve(self.doubtful, verdict)
        ):
            raise RequestRejected(
                f"keys that serve other requests are refused for this one: {verdict.reason}"
            )

    def _act(self, lease: Lease, verdict: Verdict, settled: Settled | None) -> None:
        """Go on with another key by returning, or end the turn."""
        match verdict.fate:
            case Fate.NEXT_KEY:
                # The pool rests the key by itself; the exclusion bounds the turn should the rest be
                # short. A request that must not leave its account keeps its keys: without them the
                # account would look gone.
                if not self.lease_request.account:
                    self.lease_request = replace(
                        self.lease_request, exclude=self.lease_request.exclude | {lease.key.id}
                    )
            case Fate.OTHER_ACCOUNT if self._may_cap(lease, verdict):
                self.capped.add(lease.key.id)  # the pool knows the limit now, and reserves less
            case Fate.OTHER_ACCOUNT if self.lease_request.account:
                raise _rejection(verdict)
            case Fate.OTHER_ACCOUNT if verdict.effect is Effect.UNFIT:
                self.turned_down = verdict  # the pool asks that account no more for it
            case Fate.OTHER_ACCOUNT:
                self.denied_model = lease.request.model
                account = verdict.account or lease.account
                self.lease_request = replace(
                    self.lease_request,
                    exclude_accounts=self.lease_request.exclude_accounts | {account, lease.account},
                )
                # Only one team has a domain, maybe the last; the keys of the others are marked, so
                # each is asked once
                if verdict.scope is not Scope.KEY_RESOURCE and verdict.too_large_limit is None:
                    self.turned_down = verdict
            case Fate.RETRY if verdict.scope is Scope.MODEL and self.lease_request.fallbacks:
                self.lease_request = self.lease_request.without(
                    lease.request.model
                )  # it is overloaded, the next one may not be
            case Fate.RETRY | Fate.SAME_ACCOUNT:
                fault = TransientError(verdict.reason or verdict.code, verdict.backoff_ms)
                fault.code, fault.most_repeats = verdict.code, verdict.most_repeats
                fault.own = _is_own(verdict, settled)
                raise fault
            case _:
                raise _rejection(verdict)

    def _may_cap(self, lease: Lease, verdict: Verdict) -> bool:
        """Whether the same key may serve if less is reserved for the answer than was refused."""
        too_long = verdict.too_large_in is Dimension.OTPM and bool(verdict.too_large_limit)
        return self.lease_request.flexible and too_long and lease.key.id not in self.capped

    async def _settle(
        self, lease: Lease, verdict: Verdict, *, patiently: bool = False
    ) -> Settled | None:
        try:
            # what a refusal says must be known before the next key: which rests, that nothing was
            # sent
            if patiently:
                return await retry_while_down(lambda: self.pool.settle(lease, verdict))
            return await self.pool.settle(lease, verdict)
        except RedisError as exc:
            # The answer is worth more than its book-keeping: the lease expires by itself.
            _logger.warning(
                "a lease could not be settled (%s); it will expire by itself", type(exc).__name__
            )
            return None

    async def _conclude(
        self, lease: Lease, reply: Reply, *, patiently: bool = False
    ) -> Settled | None:
        """Settle the lease and write down what became of the request, both at once."""
        settling = self._settle(lease, reply.verdict, patiently=patiently)
        if isinstance(self.hooks, _NoHooks):
            return (
                await settling
            )  # it writes nothing down; two tasks for that would be 3 % of a completion's CPU
        settled, _ = await asyncio.gather(settling, self.hooks.after(lease, reply))
        return settled

    async def _settle_whatever_happens(self, lease: Lease, verdict: Verdict) -> None:
        await asyncio.shield(asyncio.ensure_future(self._settle(lease, verdict)))

    async def _conclude_whatever_happens(self, lease: Lease, reply: Reply) -> None:
        await asyncio.shield(asyncio.ensure_future(self._conclude(lease, reply)))

    async def _report(self, lease: Lease) -> None:
        try:
            view = await self.pool.snapshot()
        except RedisError:
            return
        log_key_failed(lease.key.label, failed=view.failed, total=len(view.keys))


def _is_own(verdict: Verdict, settled: Settled | None) -> bool:
    """Whether a failure is this request's own, and not that of the provider, of its host, or of this process."""
    if verdict.most_repeats is not None or (settled is not None and settled.passing):
        return True
    return 0 < verdict.status < HTTPStatus.INTERNAL_SERVER_ERROR and verdict.scope not in {
        Scope.HOST,
        Scope.MODEL,
    }


def _spread() -> int:
    """When a job that waited in vain comes back, in milliseconds.

    A crowd does not come back together.
    """
    return random.randint(_CROWD_MS, 2 * _CROWD_MS)  # noqa: S311 - no secret


def _too_large_sentence(lease_request: LeaseRequest, away: NoLease, *, service: str) -> str:
    largest = f"limit of any {service} key is {away.limit}"
    match away.dimension:
        case Dimension.EMAILS_DAY | Dimension.EMAILS_MONTH:
            quota = f"the largest quota of any {service} key is {away.limit}"
            return f"the email has {lease_request.emails} recipients, and {quota}: split it"
        case Dimension.ITPM:
            return (
                f"the prompt needs about {lease_request.input_tokens} tokens a minute, "
                f"and the largest {largest}: send less"
            )
        case Dimension.OTPM:
            needs = (
                f"the request reserves {lease_request.output_tokens} tokens a minute for its answer"
            )
            return f"{needs}, and the largest {largest}: lower max_completion_tokens"
    needs = f"the request needs about {lease_request.tokens} tokens a minute"
    return f"{needs}, and the largest {largest}: send less, or lower max_completion_tokens"


def _rejection(verdict: Verdict) -> RequestRejected:
    sentence = f"{verdict.code}: {verdict.reason}" if verdict.reason else verdict.code
    return (
        RequestTooLarge(sentence)
        if verdict.too_large_limit is not None
        else RequestRejected(sentence)
    )
