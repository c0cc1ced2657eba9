"""Reports to the broker what the jobs of tenants have used; it serves tenants in turn by that."""

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
"""As many tokens count as much as one request.

Groq's limits a minute allow about as many: 1,000 requests and 250,000 tokens in the developer tier,
30 requests and 6,000 to 12,000 tokens in the free one.
"""
_EVERY_S: Final = 1.0
_MOST_JOBS: Final = 10_000
"""How many jobs are remembered whose first request was counted."""


class TenantCharges:
    """Counts in the process, and writes to the broker once a second.

    A job counts one request when it is taken from its queue (`worker.aio.transport.sharing`). What
    it uses beyond that is known when its calls have ended. Without a broker this does nothing.

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
            lease_request: The request of its lease, for a job with a tenant.
            tokens: What it used.
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
        # As the script of the transport names tenants.
        tenant = hashlib.sha1(lease_request.tenant.encode()).hexdigest()[:16]  # noqa: S324 - a name
        self._new[lease_request.queue][tenant] += cost  # type: ignore[assignment]
        if self._task is None or self._task.done():
            # A context of its own: it is not part of the job that happens to be counted first.
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
                    continue  # the turns of a second are less fair, and no job is lost


NO_CHARGES: Final = TenantCharges(None)
"""For jobs whose use is reported to no broker."""
