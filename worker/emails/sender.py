"""Sends emails for jobs: the entry point of this package."""

import time
from collections.abc import Container
from dataclasses import replace
from typing import Self

from redis.asyncio import Redis

from config.settings import Settings
from worker.aio.errors import Revoked
from worker.emails.batching import Outcome, wake
from worker.emails.demand import EmailDemand
from worker.emails.idempotency import IdempotencyStore
from worker.emails.outgoing import OutgoingEmail
from worker.emails.run import EmailRun, SharedState
from worker.errors import Deferred, Rescheduled
from worker.jobs.ownership import NO_MESSAGES, Ownership
from worker.keypool import LeaseRequest
from worker.providers import SendRequest
from worker.rotation.rotation import Rotation
from worker.rotation.served import Served

_CALL_SLACK_MS = 5_000


class EmailSender:
    """Sends the emails of one process, each once.

    Args:
        rotation: Resend's keys and calls.
        store: The idempotency store, which keeps requests and results.
        at_least_once: Another account sends an email in doubt if its own account is gone.
    """

    def __init__(
        self,
        rotation: Rotation[SendRequest],
        store: IdempotencyStore,
        *,
        at_least_once: bool = False,
    ) -> None:
        self.rotation = rotation
        self.shared = SharedState(rotation, store, at_least_once)
        self.demand = EmailDemand(
            rotation.waiting.demand, self.shared.queues, self.shared.went_alone
        )

    @classmethod
    def of(
        cls,
        settings: Settings,
        redis: Redis,
        rotation: Rotation[SendRequest],
        *,
        ownership: Ownership = NO_MESSAGES,
    ) -> Self:
        """Build the sender of a service as the settings describe it."""
        timeout_s = settings.services[rotation.pool.service].timeout_s
        call_ms = round(timeout_s * 2000) + _CALL_SLACK_MS
        store = IdempotencyStore(
            redis, namespace=settings.namespace, call_ms=call_ms, ownership=ownership
        )
        return cls(
            rotation,
            store,
            at_least_once=settings.email_ambiguity == "at_least_once",
        )

    def cancel(self, jobs: Container[str]) -> None:
        """End the wait of followers whose jobs are cancelled. Each raises `Revoked`.

        A call in flight is not stopped.

        Args:
            jobs: The ids of the jobs.
        """
        for queue in list(self.shared.queues.values()):
            for email, waiter in list(queue.waiters.items()):
                if email.job in jobs:
                    del queue.waiters[email]
                    wake(waiter, Outcome(Revoked()))
        for attempt in list(self.shared.leaders):
            attempt.cancel(jobs)

    async def serve(
        self, lease_request: LeaseRequest, email: OutgoingEmail, *, longest_s: float | None = None
    ) -> Served:
        """Send an email, or return the result of another job that has sent it.

        Args:
            lease_request: What a call with the email needs of a key.
            email: The email.
            longest_s: The longest wait in this run, in seconds. None: no limit.

        Raises:
            Deferred: No key may be called now, or another job is sending the same email.
            TransientError: Resend failed in a way that may pass.
            InvalidArguments: The idempotency key was used for another email, or the email is new
                and `unsendable`.
            RequestRejected: Resend refuses the email for good.
            OutcomeUnknown: The email may have been accepted, and there is no safe way to find out.
        """
        email.until_s = None if longest_s is None else time.monotonic() + longest_s
        email.tenant = lease_request.tenant
        try:
            served = await EmailRun(self.shared, lease_request, email).serve()
        except Rescheduled as error:
            error.attempts, error.waited_ms = email.calls, email.waited_ms
            if isinstance(error, Deferred):
                self.rotation.calls.deferral(lease_request)
            raise
        return replace(served, attempts=email.calls, waited_ms=email.waited_ms)
