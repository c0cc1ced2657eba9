"""Rotation: the only place where the key pool and a provider meet.

Take a lease, send, let the provider judge the answer, settle the lease with that verdict. A key that is definitely at
fault means the next key at once; a pool that is exhausted means a deferral; everything else ends the turn.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, NoReturn, Protocol, TypeVar

from redis.exceptions import RedisError

from config.keys import ApiKey
from worker import trail
from worker.cancellations import end_if_cancelled
from worker.errors import Deferred, Fault, OutcomeUnknown, RequestRejected, RequestTooLarge, TurnOver
from worker.keypool import NO_TICKET, KeyPool, Lease, Settled, Unavailable, Want, Why
from worker.logs import log_key_failed, log_key_used
from worker.patience import ask_patiently
from worker.providers.base import Provider
from worker.turnstile import Place, Turnstile
from worker.verdicts import ABANDONED, Effect, Fate, Reply, Scope, Verdict

_logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")
RequestT_co = TypeVar("RequestT_co", covariant=True)

_SPINS = 1_000  # far above any honest turn; a loop that long is a bug and must end as a fault, not hang
_RECHECK_MS = 50  # a lease that is older than this is checked again before the call
_NO_KEY_MS = 60_000  # all keys are out until a person acts: look again each minute
_BUSY_MS = 1_000

INTERRUPTED = Verdict(Fate.RETRY, "interrupted", "the job was stopped while the call was under way", definite=False)


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


class Errand(Protocol[RequestT_co]):
    """A request with a book of its own, because it must not be carried out twice."""

    async def load(self, lease: Lease) -> RequestT_co:
        """Give the request for this lease's key, written down before a byte of it leaves.

        What it raises ends the turn; the lease goes back unused.
        """
        ...

    async def judged(self, lease: Lease, reply: Reply) -> None:
        """Write down what became of the request. Never raises for a Redis that is gone."""
        ...


class _Plain(Generic[RequestT]):
    """A request without a book."""

    def __init__(self, build: Callable[[ApiKey], RequestT]) -> None:
        self._build = build

    async def load(self, lease: Lease) -> RequestT:
        return self._build(lease.key)

    async def judged(self, lease: Lease, reply: Reply) -> None:
        """Nothing to write down."""


class Rotation(Generic[RequestT]):
    """Serves requests of one service with whichever key may be used.

    Args:
        pool: The service's keys.
        provider: The service's wire.
    """

    def __init__(self, pool: KeyPool, provider: Provider[RequestT]) -> None:
        self.pool = pool
        self.provider = provider
        self.asking = Turnstile()
        self.sending = Turnstile()

    async def serve(self, want: Want, build: Callable[[ApiKey], RequestT]) -> Served:
        """Carry one request out, on as many keys as it takes.

        Args:
            want: What the call needs of a key; `want.max_wait_ms` bounds the wait over the whole turn.
            build: Makes the request for the key that was chosen (an email's from address depends on it).

        Returns:
            The provider's answer and what it took.

        Raises:
            Deferred: No key can serve now; come back after its countdown.
            Fault: The provider failed in a way that may pass.
            RequestRejected: The provider refuses the request for good.
            RequestTooLarge: No key's limit is as large as the request.
            OutcomeUnknown: An email's earlier attempt has an unknown outcome and its account is gone.
        """
        return await self.run(want, _Plain(build))

    async def run(self, want: Want, errand: Errand[RequestT]) -> Served:
        """As `serve`, for a request that has a book of its own."""
        turn = _Turn(self, want, errand)
        try:
            return await turn.run()
        except TurnOver as over:
            over.attempts, over.waited_ms = turn.attempts, turn.waited_ms
            raise


class _Turn(Generic[RequestT]):
    """One pass of one job through the keys."""

    def __init__(self, rotation: Rotation[RequestT], want: Want, errand: Errand[RequestT]) -> None:
        self.pool = rotation.pool
        self.provider = rotation.provider
        self.asking = rotation.asking
        self.sending = rotation.sending
        self.want = want
        self.shut_out = want.exclude
        self.lane = f"{want.model} bulk" if want.bulk else want.model  # neither stands behind the other
        self.errand = errand
        self.attempts = 0
        self.waited_ms = 0
        self.turned_down: Verdict | None = None
        self.doubtful: list[Lease] = []
        self.last: Verdict | None = None

    async def run(self) -> Served:
        for _ in range(_SPINS):
            lease = await self._lease()
            place = await self._way_to_the_wire(lease)
            if place is None:
                self.want = replace(self.want, ticket=NO_TICKET)  # it had an instant, and lines up no more
                continue
            try:
                value = await self._call(lease, place)
            finally:
                place.leave()
            if value is not None:
                return Served(value, lease.key.label, self.attempts, self.waited_ms)
        raise Fault("no usable key was found in a reasonable number of tries")

    async def _lease(self) -> Lease:
        """Take a lease, or end the turn."""
        got = await self._ask()
        if isinstance(got, Unavailable):
            if self.want.exclude != self.shut_out:
                got = await self._look_again(got)
            self._give_up(got)
        return got

    async def _way_to_the_wire(self, lease: Lease) -> Place | None:
        """Wait for the lease's instant and for a place; None: the key was told to rest meanwhile, or all were reset."""
        began = time.monotonic()
        place, waits = None, lease
        try:
            while True:
                if waits.wait_ms > 0 and not await self._wait(waits):
                    await self._settle_whatever_happens(lease, ABANDONED)
                    return None
                place = await self.sending.take(self.lane)
                if lease.wait_ms == 0 and (time.monotonic() - began) * 1000 <= _RECHECK_MS:
                    return place
                confirmed = await ask_patiently(lambda: self.pool.confirm(lease))
                if confirmed is not None and confirmed.wait_ms == 0:
                    return place
                place.leave()
                if confirmed is None:
                    return None
                place, waits = None, confirmed
        except BaseException:
            if place is not None:
                place.leave()
            await self._settle_whatever_happens(lease, ABANDONED)
            raise

    async def _ask(self) -> Lease | Unavailable:
        """Ask the pool, standing in line for it."""
        began = asked = time.monotonic()
        try:
            place = await self.asking.take(self.lane, wait_ms=self._left_ms())
        except TimeoutError:
            self.waited_ms += round((time.monotonic() - began) * 1000)
            return Unavailable(Why.BUSY, reason="many jobs wait for keys whose limits are not known yet")
        try:
            while True:
                want = replace(self.want, max_wait_ms=self._left_ms(since=began))
                asked = time.monotonic()
                got = await ask_patiently(lambda want=want: self.pool.acquire(want))  # type: ignore[misc]
                if self.want.ticket:  # it is redeemed now
                    self.want = replace(self.want, ticket=NO_TICKET)
                if (
                    isinstance(got, Lease)
                    or got.why is not Why.BUSY
                    or got.countdown_ms > want.max_wait_ms
                    or want.bulk
                ):
                    return got
                await self.asking.wait_for_room(wait_ms=got.countdown_ms)
        finally:
            place.leave()
            self.waited_ms += round((asked - began) * 1000)  # the last round trip is no wait

    async def _look_again(self, away: Unavailable) -> Unavailable:
        """Keys were at fault in this turn, which is no fault of the job: one of them may be free before the others."""
        want = replace(self.want, exclude=self.shut_out, max_wait_ms=0, ticket=away.ticket)
        got = await ask_patiently(lambda: self.pool.acquire(want))
        if isinstance(got, Unavailable):
            return got
        # One is free again already, but a turn calls no key twice.
        await self._settle_whatever_happens(got, ABANDONED)
        return Unavailable(Why.BUSY, reason="every key was refused a moment ago")

    def _left_ms(self, *, since: float | None = None) -> int:
        spent_ms = self.waited_ms + (0 if since is None else round((time.monotonic() - since) * 1000))
        return max(0, self.want.max_wait_ms - spent_ms)

    async def _wait(self, lease: Lease) -> bool:
        started = time.monotonic()
        try:
            return await self.pool.wait(lease)
        finally:
            self.waited_ms += round((time.monotonic() - started) * 1000)

    def _give_up(self, away: Unavailable) -> NoReturn:
        match away.why:
            case Why.BUSY:
                raise Deferred(random.randint(_BUSY_MS, 3 * _BUSY_MS), away.reason)  # noqa: S311 - spreads a crowd
            case Why.DEFERRED:
                raise Deferred(away.countdown_ms, away.reason, away.ticket)
            case Why.DISABLED if self.turned_down:  # by every account that can be asked
                raise _rejection(self.turned_down)
            case Why.DISABLED:
                whose = " of its account" if self.want.account else ""
                deferred = Deferred(_NO_KEY_MS, f"every {self.pool.service} key{whose} is disabled ({away.reason})")
                deferred.for_good = True
                raise deferred
            case _:
                self._fail(away)

    def _fail(self, away: Unavailable) -> NoReturn:
        match away.why:
            case Why.TOO_LARGE if self.want.emails > away.limit:
                raise RequestTooLarge(
                    f"the email has {self.want.emails} recipients, and the largest quota of any {self.pool.service} key"
                    f" is {away.limit}: split it"
                )
            case Why.TOO_LARGE:
                raise RequestTooLarge(
                    f"the request needs about {self.want.tokens} tokens a minute, and the largest limit of any"
                    f" {self.pool.service} key is {away.limit}: send less, or lower max_completion_tokens"
                )
            case Why.GONE:
                raise OutcomeUnknown(
                    "an earlier attempt may have been accepted, and no key of its account is configured any more"
                )
            case Why.UNFIT:
                topic = self.want.topic or "the from address that is set for it"
                raise RequestRejected(f"no {self.pool.service} key may be used for {topic}: {away.reason}")
        # Every key was tried in this turn, or none exists.
        if self.last is None:
            raise Deferred(_NO_KEY_MS, f"no {self.pool.service} key is configured for this job")
        if self.turned_down or self.last.fate is Fate.OTHER_ACCOUNT:
            raise _rejection(self.turned_down or self.last)
        raise Fault(self.last.reason or self.last.code, self.last.backoff_ms)

    async def _call(self, lease: Lease, place: Place) -> dict[str, Any] | None:
        """Make the call and act on the verdict; None: the next key. The place is free once the bytes have left."""
        try:
            await end_if_cancelled(self.want.by)
            request = await self.errand.load(lease)
        except BaseException:
            await self._settle_whatever_happens(lease, ABANDONED)
            raise
        self.attempts += 1
        log_key_used(lease.key.label, service=self.pool.service, attempt=self.attempts, attempts=len(self.pool.keys))
        try:
            reply = await self.provider.call(lease.key.secret, request, sent=place.leave)
        except BaseException:
            # Cancelled (a time limit, a revoke, a shutdown) or a bug: the call may have been carried out.
            trail.note(lease.key.label, INTERRUPTED.code, in_doubt=True)
            await self._conclude_whatever_happens(lease, Reply(INTERRUPTED))
            raise
        trail.note(lease.key.label, reply.verdict.code, in_doubt=not reply.verdict.definite)
        try:
            patiently = reply.verdict.fate not in {Fate.DONE, Fate.FAIL}
            settled, _ = await asyncio.gather(
                self._settle(lease, reply.verdict, patiently=patiently), self.errand.judged(lease, reply)
            )
        except asyncio.CancelledError:
            # What the provider said of the key outlives the job. A second settle of one lease changes nothing.
            await self._conclude_whatever_happens(lease, reply)
            raise
        self.asking.room()
        await self._blame(lease, reply.verdict)
        if settled and settled.newly and reply.verdict.effect is not Effect.NONE:
            await self._report(lease)
        self.last = reply.verdict
        if reply.verdict.fate is Fate.DONE:
            return reply.value or {}
        self._act(lease, reply.verdict)
        return None

    async def _blame(self, lease: Lease, verdict: Verdict) -> None:
        """End the turn where keys of two accounts that serve others are refused for what may be the request's fault."""
        if verdict.certain or verdict.effect is not Effect.DISABLE or verdict.scope is not Scope.KEY:
            return
        self.doubtful.append(lease)
        if len({one.account for one in self.doubtful}) > 1 and await ask_patiently(
            lambda: self.pool.absolve(self.doubtful, verdict)
        ):
            raise RequestRejected(f"keys that serve other requests are refused for this one: {verdict.reason}")

    def _act(self, lease: Lease, verdict: Verdict) -> None:
        """Go on with another key by returning, or end the turn."""
        match verdict.fate:
            case Fate.NEXT_KEY:
                # The pool rests the key by itself; the exclusion bounds the turn should the rest be short. A request
                # that must not leave its account keeps its keys: without them the account would look gone.
                if not self.want.account:
                    self.want = replace(self.want, exclude=self.want.exclude | {lease.key.id})
            case Fate.OTHER_ACCOUNT if self.want.account:
                raise _rejection(verdict)
            case Fate.OTHER_ACCOUNT:
                account = verdict.account or lease.account
                self.want = replace(self.want, exclude_accounts=self.want.exclude_accounts | {account, lease.account})
                # Only one team has a domain, maybe the last; the keys of the others are marked, so each is asked once
                if verdict.scope is not Scope.KEY_TOPIC and verdict.too_large_limit is None:
                    if self.turned_down:
                        raise _rejection(verdict)
                    self.turned_down = verdict
            case Fate.RETRY | Fate.SAME_ACCOUNT:
                fault = Fault(verdict.reason or verdict.code, verdict.backoff_ms)
                fault.code, fault.most_repeats = verdict.code, verdict.most_repeats
                raise fault
            case _:
                raise _rejection(verdict)

    async def _settle(self, lease: Lease, verdict: Verdict, *, patiently: bool = False) -> Settled | None:
        try:
            if patiently:  # what a refusal says must be known before the next key: which rests, that nothing was sent
                return await ask_patiently(lambda: self.pool.settle(lease, verdict))
            return await self.pool.settle(lease, verdict)
        except RedisError as exc:
            # The answer is worth more than its book-keeping: the lease expires by itself.
            _logger.warning("a lease could not be settled (%s); it will expire by itself", type(exc).__name__)
            return None

    async def _settle_whatever_happens(self, lease: Lease, verdict: Verdict) -> None:
        await asyncio.shield(asyncio.ensure_future(self._settle(lease, verdict)))

    async def _conclude_whatever_happens(self, lease: Lease, reply: Reply) -> None:
        both = asyncio.gather(self._settle(lease, reply.verdict), self.errand.judged(lease, reply))
        await asyncio.shield(both)

    async def _report(self, lease: Lease) -> None:
        try:
            view = await self.pool.snapshot()
        except RedisError:
            return
        log_key_failed(lease.key.label, failed=view.failed, total=len(view.keys))


def _rejection(verdict: Verdict) -> RequestRejected:
    sentence = f"{verdict.code}: {verdict.reason}" if verdict.reason else verdict.code
    return RequestTooLarge(sentence) if verdict.too_large_limit is not None else RequestRejected(sentence)
