"""Records the requests that this process is sending now."""

import asyncio

from worker.errors import Deferred, TransientError

Ended = asyncio.Future[Deferred | TransientError | None]
"""The end of a send: its job's error, or None if the other jobs should look into the store."""


class InFlightSends:
    """Lets jobs of one process that send the same email wait for a single call.

    Requests are identified by their idempotency keys.
    """

    def __init__(self) -> None:
        self._ends: dict[str, Ended] = {}

    def begin(self, idempotency_key: str) -> None:
        """Note a request that is about to be sent."""
        self._ends[idempotency_key] = asyncio.get_running_loop().create_future()

    def find(self, idempotency_key: str) -> Ended | None:
        """Return the end of a send, to await; None if this process is not sending the request."""
        return self._ends.get(idempotency_key)

    def end(self, idempotency_key: str, error: Deferred | TransientError | None = None) -> None:
        """Note that a send is over, and wake the jobs that wait for it.

        A second call does nothing.

        Args:
            idempotency_key: The request's idempotency key.
            error: The error of the sending job, if the other jobs are to get it as well.
        """
        ended = self._ends.pop(idempotency_key, None)
        if ended is not None:
            ended.set_result(error)
