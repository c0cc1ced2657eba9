"""Connects the key pool of a service with the provider's client."""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from worker.errors import Deferred, Rescheduled
from worker.keypool import KeyPool, Lease, LeaseRequest
from worker.providers.base import Provider
from worker.rotation.call_counter import CallCounter
from worker.rotation.call_hooks import CallHooks, NoHooks
from worker.rotation.limiter import KeyedLimiter
from worker.rotation.served import Served
from worker.rotation.tenant_charges import NO_CHARGES, TenantCharges
from worker.rotation.turn import Turn
from worker.rotation.waitlist import WaitList
from worker.usage import NO_USAGE, UsageCounter

RequestT = TypeVar("RequestT")


class Rotation(Generic[RequestT]):
    """Serves requests of one service with whichever key may be used.

    Args:
        pool: The service's keys.
        provider: The service's client.
        before_call: Awaited before each call. If it raises an exception, the turn ends, and the
            lease goes back unused.
        usage: Counts what the calls use.
        charges: Reports the use of each tenant to the broker.
    """

    def __init__(
        self,
        pool: KeyPool,
        provider: Provider[RequestT],
        *,
        before_call: Callable[[], Awaitable[None]] | None = None,
        usage: UsageCounter = NO_USAGE,
        charges: TenantCharges = NO_CHARGES,
    ) -> None:
        self.pool = pool
        self.usage = usage
        self.charges = charges
        self.before_call = before_call
        self.provider = provider
        self.waiting = WaitList(pool)
        self.sending = KeyedLimiter()
        self.calls = CallCounter(pool.service, usage, charges)

    async def serve(
        self,
        lease_request: LeaseRequest,
        build: Callable[[Lease], RequestT],
        *,
        longest_s: float | None = None,
    ) -> Served:
        """Carry out one request, with one key after another until one serves.

        Args:
            lease_request: What the call needs of a key.
            build: Builds the request for a lease, from its key and its reserved tokens.
            longest_s: The longest wait for keys over the whole turn, in seconds; None: no limit.

        Returns:
            The provider's answer, with the key, the number of calls and the time waited.

        Raises:
            Deferred: No key can serve now. Try again after the error's countdown.
            TransientError: The provider failed in a way that may pass.
            RequestRejected: The provider refuses the request for good.
            RequestTooLarge: No key's limit is as large as the request.
            OutcomeUnknown: An email's earlier attempt has an unknown outcome, and its account is
                gone.
        """
        try:
            return await self.run(lease_request, NoHooks(build), longest_s=longest_s)
        except Deferred:
            self.calls.deferral(lease_request)
            raise

    async def run(
        self,
        lease_request: LeaseRequest,
        hooks: CallHooks[RequestT],
        *,
        longest_s: float | None = None,
    ) -> Served:
        """Carry out one request as `serve` does, with hooks around each call."""
        turn = Turn(
            pool=self.pool,
            provider=self.provider,
            waiting=self.waiting,
            sending=self.sending,
            before_call=self.before_call,
            lease_request=lease_request,
            hooks=hooks,
            longest_s=longest_s,
            calls=self.calls,
        )
        try:
            return await turn.run()
        except Rescheduled as over:
            over.attempts, over.waited_ms = turn.attempts, turn.waited_ms
            raise
