"""The requests that this process is sending now."""

import asyncio

from worker.errors import Deferred, TransientError

Ended = asyncio.Future[Deferred | TransientError | None]
"""The end of a send: the error that its job got, or None if a look into the store is worthwhile."""


class InFlightSends:
    """Lets the jobs of one process that mean the same email wait for one call.

    A request is known by its idempotency key.
    """

    def __init__(self) -> None:
        self._ends: dict[str, Ended] = {}

    def begin(self, idempotency_key: str) -> None:
        """Note a request that is about to be sent."""
        self._ends[idempotency_key] = asyncio.get_running_loop().create_future()

    def find(self, idempotency_key: str) -> Ended | None:
        """The end of a send, to wait for it. None: this process is not sending the request."""
        return self._ends.get(idempotency_key)

    def end(self, idempotency_key: str, error: Deferred | TransientError | None = None) -> None:
        """Note that a send is over, and wake the jobs that wait for it.

        A second call does nothing.

        Args:
            idempotency_key: The request.
            error: The error that its job got, if the other jobs are to get it as well.
        """
        ended = self._ends.pop(idempotency_key, None)
        if ended is not None:
            ended.set_result(error)
