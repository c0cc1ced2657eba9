"""Reports the use of each tenant to the broker, which serves the tenants in turn by their use."""

import asyncio
import hashlib
from collections import Counter, OrderedDict, defaultdict
from contextvars import Context
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.aio.transport.scripts import CHARGE
from worker.keypool import LeaseRequest

TOKENS_A_REQUEST: Final = 250
"""How many tokens count as much as one request.

That is about the ratio of Groq's limits a minute: 1,000 requests and 250,000 tokens in the
developer tier, 30 requests and 6,000 to 12,000 tokens in the free tier.
"""
_EVERY_S: Final = 1.0
_MOST_JOBS: Final = 10_000
"""How many jobs to remember whose first request was counted."""


class TenantCharges:
    """Counts the use in the process, and writes it to the broker once a second.

    A job counts one request when it is taken from its queue (`worker.aio.transport.sharing`). Its
    further use is known when its calls have ended. Without a broker, nothing is counted.

    Args:
        broker: The Redis of the broker.
    """

    def __init__(self, broker: Redis | None) -> None:
        self._broker: Final = broker
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._new: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._task: asyncio.Task[None] | None = None

    def note(self, lease_request: LeaseRequest, tokens: int) -> None:
        """Count a call that the provider has accepted.

        Args:
            lease_request: The request of the call's lease, for a job with a tenant.
            tokens: The tokens that the call used.
        """
        if not (self._broker and lease_request.queue):
            return
        cost = max(1.0, tokens / TOKENS_A_REQUEST)
        if lease_request.by not in self._counted:
            self._counted[lease_request.by] = None
            if len(self._counted) > _MOST_JOBS:
                self._counted.popitem(last=False)
            cost -= 1
        if not cost:
            return
        # The transport's script names tenants in the same way.
        tenant = hashlib.sha1(lease_request.tenant.encode()).hexdigest()[:16]  # noqa: S324 - a name
        self._new[lease_request.queue][tenant] += cost  # type: ignore[assignment]
        if self._task is None or self._task.done():
            # A context of its own, because the task does not belong to the job counted first.
            self._task = asyncio.get_running_loop().create_task(self._write(), context=Context())

    async def _write(self) -> None:
        while self._new and self._broker:
            await asyncio.sleep(_EVERY_S)
            new, self._new = self._new, defaultdict(Counter)
            for queue, costs in new.items():
                arguments = [part for cost in costs.items() for part in cost]
                try:
                    await self._broker.eval(CHARGE, 1, queue, *arguments)
                except (RedisError, OSError):
                    continue  # one second's turns are less fair; no job is lost


NO_CHARGES: Final = TenantCharges(None)
"""The charges of jobs whose use is not reported."""
