"""Claims a request in the store before a call to Resend, and stores its outcome afterwards."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redis.exceptions import RedisError

from worker.aio.redis_retry import safe_message, warn
from worker.attempts import Attempt
from worker.emails.idempotency import IdempotencyStore, SendRecord
from worker.emails.outgoing import OutgoingEmail
from worker.errors import Deferred
from worker.keypool import Lease
from worker.providers import SendRequest
from worker.redis.later import send_later
from worker.redis.retry import retry_while_down
from worker.verdicts import Fate, Reply


class NothingToSend(Exception):  # noqa: N818 - no error
    """No call is to be made, because another job has sent the email or is sending it."""


class EmailAttempt:
    """The hooks around one or several calls, with one request at a time.

    Attributes:
        store: The idempotency store, which keeps requests and results.
        request: The request of the current call; None between calls.
        in_doubt: A call may have been carried out.
        calls: The calls that were made.
    """

    def __init__(self, store: IdempotencyStore) -> None:
        self.store = store
        self.request: SendRequest | None = None
        self.in_doubt = False
        self.calls: list[Attempt] = []

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Store the outcome of the call."""
        request, verdict = self.request, reply.verdict
        if request is None:  # the outcome is stored already
            return
        call = Attempt.now(lease.key.label, verdict.code, in_doubt=not verdict.definite)
        self.calls.append(call)
        if verdict.fate is Fate.DONE:
            # The email was accepted. If the store fails, sending the same request again is safe:
            # Resend gives the same answer.
            results = _results(reply, lease.key.label)
            await self._try(lambda: self.store.complete(request, results), later=True)
        elif verdict.definite:
            if not await self._release(request, by=lease.id):
                self.in_doubt = True
        else:
            self.in_doubt = True
            await self._try(lambda: self.store.mark_ambiguous(request))
        self.request = None

    async def _release(self, request: SendRequest, *, by: str) -> bool:
        try:
            return await retry_while_down(lambda: self.store.release(request, by=by))
        except Deferred:
            return False

    async def _try(self, write: Callable[[], Awaitable[Any]], *, later: bool = False) -> None:
        """Write to the store once; if that fails and `later`, try again in the background."""
        try:
            await write()
        except RedisError as exc:
            then = (
                "trying again for a minute"
                if later and send_later(write, exc)
                else "a second try sends the same bytes"
            )
            warn("cannot store the outcome of an email (%s); %s", safe_message(exc), then)


class RepeatAttempt(EmailAttempt):
    """The hooks around a call that sends a stored request again without any change.

    Args:
        store: The idempotency store.
        email: The email of the job that repeats the request.
        record: The store's record of the email, with the request.
    """

    def __init__(self, store: IdempotencyStore, email: OutgoingEmail, record: SendRecord) -> None:
        super().__init__(store)
        self.in_doubt = True
        self._email = email
        self._record = record

    async def before(self, lease: Lease) -> SendRequest:  # noqa: ARG002 - any key will do
        """Take over the request.

        Raises:
            NothingToSend: Another job has taken it over, or it may no longer be sent.
        """
        request = self._record.request
        if request is None or not await retry_while_down(lambda: self.store.reclaim(self._record)):
            raise NothingToSend
        self._email.calls += 1
        self.request = request
        return request

    def recipients(self, reply: Reply) -> Mapping[str, int]:
        """Count all recipients for the job's tenant: the other emails' tenants are unknown."""
        batch = reply.verdict.emails
        return {self._email.tenant: self._email.recipients if batch is None else batch}


def _results(reply: Reply, label: str) -> list[dict[str, Any] | None]:
    value = reply.value or {}
    results = value.get("results", [value])
    return [{"id": result["id"], "key": label} if "id" in result else None for result in results]
