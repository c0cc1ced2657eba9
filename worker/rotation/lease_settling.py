"""Settles the leases of a turn, also if its job is cancelled or Redis is down."""

import asyncio
import itertools
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import RedisError

from worker.aio.redis_retry import safe_message, warn
from worker.aio.time_limits import HeldTimeLimits
from worker.keypool import KeyPool, Lease, Settled
from worker.redis.later import send_later
from worker.redis.retry import retry_while_down
from worker.rotation.call_hooks import CallHooks, NoHooks
from worker.verdicts import Reply, Verdict


class LeaseSettling:
    """Settles leases, and makes the hooks record the outcomes of their requests.

    Args:
        pool: The keys of the service.
        hooks: The hooks, which run after each call.
    """

    def __init__(self, pool: KeyPool, hooks: CallHooks[Any]) -> None:
        self._pool: Final = pool
        self._hooks: Final = hooks

    async def settle(
        self, lease: Lease, verdict: Verdict, *, retry: bool = False, again: bool = False
    ) -> Settled | None:
        """Settle a lease.

        Args:
            lease: The lease.
            verdict: The verdict on the provider's answer.
            retry: While Redis is down, try again, for a minute at most.
            again: An earlier settle of the lease may have been carried out.

        Returns:
            The result; None if Redis could not be reached. The lease is then settled later, or
            expires.

        Raises:
            Deferred: With `retry`, Redis did not answer in that time. The lease then expires.
        """
        tries = itertools.count(int(again))

        def settle(answer: Verdict) -> Awaitable[Settled]:
            # Redis may have settled the lease although its reply was lost. The call counts once.
            return self._pool.settle(lease, answer, again=next(tries) > 0)

        try:
            # The pool must know of a refusal before the turn tries the next key: which key rests,
            # and that nothing was sent.
            if retry:
                return await retry_while_down(lambda: settle(verdict))
            return await settle(verdict)
        except RedisError as exc:
            # The job keeps the provider's answer although it cannot be recorded.
            late = _late(verdict)
            then = (
                "trying again for a minute"
                if send_later(lambda: settle(late), exc)
                else "it expires on its own"
            )
            warn("cannot settle a lease (%s); %s", safe_message(exc), then)
            return None

    async def conclude(
        self, lease: Lease, reply: Reply, *, retry: bool = False, again: bool = False
    ) -> Settled | None:
        """Settle the lease and record the outcome of the request, both at the same time."""
        settling = self.settle(lease, reply.verdict, retry=retry, again=again)
        if isinstance(self._hooks, NoHooks):
            # There is nothing to record, and two tasks would cost 3 % of a completion's CPU.
            return await settling
        settled, _ = await asyncio.gather(settling, self._hooks.after(lease, reply))
        return settled

    async def settle_shielded(self, lease: Lease, verdict: Verdict) -> None:
        """Settle a lease even if the job is cancelled meanwhile."""
        with HeldTimeLimits():  # they limit the job's work, not the wait for a Redis that hangs
            await asyncio.shield(asyncio.ensure_future(self.settle(lease, verdict)))

    async def conclude_shielded(self, lease: Lease, reply: Reply, *, again: bool = False) -> None:
        """Conclude a call, perhaps a second time, even if the job is cancelled meanwhile."""
        with HeldTimeLimits():
            await asyncio.shield(asyncio.ensure_future(self.conclude(lease, reply, again=again)))


def _late(verdict: Verdict) -> Verdict:
    """Leave out how much of each limit was left, which was true only when the answer came."""
    return replace(
        verdict, limits=tuple(replace(limit, remaining=None) for limit in verdict.limits)
    )
