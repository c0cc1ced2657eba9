"""The hooks around a call to Resend: claim the request before, store its outcome after."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redis.exceptions import RedisError

from worker.aio.redis_retry import warn, words_of
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
    """Another job has sent the email, or is sending it: the rotation makes no call."""


class EmailAttempt:
    """One or several calls, with one request at a time.

    Attributes:
        store: Where requests and results are kept.
        request: What a call is made with now.
        in_doubt: A call may have been carried out.
        calls: The calls that were made.
    """

    def __init__(self, store: IdempotencyStore) -> None:
        self.store = store
        self.request: SendRequest | None = None
        self.in_doubt = False
        self.calls: list[Attempt] = []

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Write down how the call ended."""
        request, verdict = self.request, reply.verdict
        if request is None:  # written down already
            return
        call = Attempt.now(lease.key.label, verdict.code, in_doubt=not verdict.definite)
        self.calls.append(call)
        if verdict.fate is Fate.DONE:
            # The email is out. If the store fails, the same request only brings the same answer.
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
        """Write once; `later`: again in the background, as it does no harm late."""
        try:
            await write()
        except RedisError as exc:
            then = (
                "trying again for a minute"
                if later and send_later(write, exc)
                else "a second try sends the same bytes"
            )
            warn("cannot store the outcome of an email (%s); %s", words_of(exc), then)


class RepeatAttempt(EmailAttempt):
    """Sends a request again, exactly as it is.

    Args:
        store: Where the request is kept.
        email: The email of the job that repeats the request.
        record: What the store knows of it, with its request.
    """

    def __init__(self, store: IdempotencyStore, email: OutgoingEmail, record: SendRecord) -> None:
        super().__init__(store)
        self.in_doubt = True
        self._email = email
        self._record = record

    async def before(self, lease: Lease) -> SendRequest:  # noqa: ARG002 - any key will do
        """Take the request over.

        Raises:
            NothingToSend: Another job has done so, or the request may not be sent any more.
        """
        request = self._record.request
        if request is None or not await retry_while_down(lambda: self.store.reclaim(self._record)):
            raise NothingToSend
        self._email.calls += 1
        self.request = request
        return request

    def recipients(self, reply: Reply) -> Mapping[str, int]:
        """Count all recipients for the tenant of the job: nobody knows whose the others are."""
        batch = reply.verdict.emails
        return {self._email.tenant: self._email.recipients if batch is None else batch}


def _results(reply: Reply, label: str) -> list[dict[str, Any] | None]:
    value = reply.value or {}
    results = value.get("results", [value])
    return [{"id": result["id"], "key": label} if "id" in result else None for result in results]
