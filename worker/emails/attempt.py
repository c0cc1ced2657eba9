"""What is done beside a call to Resend.

The store learns of it before, and what became of it after.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable
from typing import Any

from redis.exceptions import RedisError

from worker.aio.errors import Revoked
from worker.cancellations import is_cancelled
from worker.emails.batch_size import BatchSizes
from worker.emails.batching import BatchQueue, Call, Outcome, Waiter, Wake, wake
from worker.emails.idempotency import EmailIdentity, IdempotencyStore, SendRequest, batch_of
from worker.emails.outgoing import OutgoingEmail
from worker.errors import Deferred, TransientError
from worker.keypool import KeyPool, Lease
from worker.providers import EMAIL_QUOTAS, Email, Sealed
from worker.redis.retry import retry_while_down
from worker.verdicts import Fate, Reply, Verdict

_logger = logging.getLogger(__name__)

_MOST_BATCH_BYTES = 4 * 1024 * 1024


class InFlightSends:
    """What this process is sending, by the name of the request, for jobs that mean the same email."""

    def __init__(self) -> None:
        self._ends: dict[str, asyncio.Future[Deferred | TransientError | None]] = {}

    def begin(self, name: str) -> None:
        """Let others know."""
        self._ends[name] = asyncio.get_running_loop().create_future()

    def find(self, name: str) -> "asyncio.Future[Deferred | TransientError | None] | None":
        """What ends with None when it is worth looking again, or with what its job was told."""
        return self._ends.get(name)

    def end(self, name: str, why: Deferred | TransientError | None = None) -> None:
        """It is over. A second call does nothing."""
        end = self._ends.pop(name, None)
        if end is not None:
            end.set_result(why)


class StartOver(Exception):  # noqa: N818 - no error
    """The email starts over within its turn."""

    why: Deferred | None = None
    """What ends the turn if it happens too often."""


class InLine(StartOver):
    """Nothing was sent, and a key will be free soon."""


class Overtaken(StartOver):
    """Another job has sent the email, or is sending it: look again."""


class _Attempt:
    """One or several calls with one request at a time.

    Attributes:
        request: What is under way.
        in_doubt: A call may have been carried out.
        calls: The calls that were made.
    """

    def __init__(self, store: IdempotencyStore) -> None:
        self.store = store
        self.request: SendRequest | None = None
        self.in_doubt = False
        self.calls: list[Call] = []

    def _calling(self, request: SendRequest, *, splits: bool = False) -> Sealed:
        self.request = request
        return Sealed(
            request.body,
            request.key,
            len(request.members) if request.is_batch else 0,
            splits=splits,
        )

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Write down what became of the call."""
        request, verdict = self.request, reply.verdict
        if request is None:  # told already
            return
        self.calls.append(Call(lease.key.label, verdict.code, not verdict.definite))
        if verdict.fate is Fate.DONE:
            # The email is out: the store may fail, and then the same bytes would only bring the
            # same answer.
            await self._try(self.store.complete(request, _results(reply, lease.key.label)))
        elif verdict.definite:
            if not await self._release(request, by=lease.id):
                self.in_doubt = True
        else:
            self.in_doubt = True
            await self._try(self.store.mark_ambiguous(request))
        self.request = None

    async def _release(self, request: SendRequest, *, by: str) -> bool:
        try:
            return await retry_while_down(lambda: self.store.release(request, by=by))
        except Deferred:
            return False

    async def _try(self, write: Awaitable[None]) -> None:
        try:
            await write
        except RedisError as exc:
            _logger.warning("an email's outcome could not be written down (%s)", type(exc).__name__)


class FirstAttempt(_Attempt):
    """The first attempt of an email, and of those that it takes along.

    Attributes:
        batch: The emails of the next or the latest call, with their waiters; the leader has none.
        handed_over: Somebody else leads the queue now.
        queue: Where it stood in line; None: it goes alone.
    """

    def __init__(  # noqa: PLR0917 - what the sender has, and the email
        self,
        store: IdempotencyStore,
        pool: KeyPool,
        in_flight: InFlightSends,
        batch_sizes: BatchSizes,
        leader: OutgoingEmail,
        queue: BatchQueue | None,
    ) -> None:
        super().__init__(store)
        self._pool = pool
        self._in_flight = in_flight
        self._batch_sizes = batch_sizes
        self.leader = leader
        self.batch: dict[OutgoingEmail, Waiter | None] = {leader: None}
        self.handed_over = queue is None
        self.queue = queue

    async def before(self, lease: Lease) -> Sealed:
        """Seal what goes out with this lease."""
        requests, left = self._fill(lease)
        try:
            await self._leave_cancelled(requests)
            more = sum(email.recipients for email in requests) - lease.request.emails
            if (
                lease.spare_emails is not None and more > 0
            ):  # before anybody else asks how much is left
                await retry_while_down(lambda: self._pool.extend(lease, more))
        finally:
            self._hand_over(left)
        while True:
            if len(requests) == 1:
                [request] = requests.values()
            else:
                number = uuid.uuid4().hex
                request = batch_of(list(requests.values()), names=self.store.names, number=number)
            known = await self._seal(request, lease)
            if not known:
                break
            emails = list(requests)
            for place in known:
                del requests[emails[place]]
                self._leave(emails[place])
            if not requests:
                raise Overtaken
        for email in requests:
            email.calls += 1
        if len(requests) > 1:
            _logger.info("📦 %d emails go out in one call", len(requests))
        return self._calling(request, splits=len(requests) > 1)

    def _fill(self, lease: Lease) -> tuple[dict[OutgoingEmail, SendRequest], list[Waiter]]:
        """Take along who waits in line, as far as there is room.

        Also gives the waiters of those who must stay.
        """
        left = []
        (first, _), *followers = self.batch.items()
        batch = _Batch(lease, most=self._batch_sizes.most(lease.account))
        batch.take(first, self._single(first, lease))
        for email, waiter in followers:  # from a call that was refused
            if waiter is None or waiter.done() or not batch.take(email, self._single(email, lease)):
                del self.batch[email]
                left += [] if waiter is None else [waiter]
        queue = self.queue
        if queue is None:
            return batch.requests, left
        for email, waiter in list(queue.waiters.items()):
            if email.idempotency_key in batch.keys:  # a copy: it has to wait for the outcome
                continue
            if not batch.take(email, self._single(email, lease)):
                break
            del queue.waiters[email]
            self.batch[email] = waiter
        return batch.requests, left

    async def _leave_cancelled(self, requests: dict[OutgoingEmail, SendRequest]) -> None:
        """Leave out whose job a person has cancelled meanwhile.

        The rotation has asked for the leader's.
        """
        followers = [email for email in requests if self.batch[email] is not None]
        cancelled = await asyncio.gather(*(is_cancelled(email.job) for email in followers))
        for email in (one for one, gone in zip(followers, cancelled, strict=True) if gone):
            del requests[email]
            waiter = self.batch.pop(email)
            if waiter is not None:
                wake(waiter, Outcome(Revoked()))

    def _hand_over(self, left: list[Waiter]) -> None:
        """Send those who must stay back into line, and let the next one lead."""
        for waiter in left:
            wake(waiter, Outcome(Wake.WAIT))
        if self.queue is not None and not self.handed_over:
            self.handed_over = True
            self.queue.wake_next()

    def _single(self, email: OutgoingEmail, lease: Lease) -> SendRequest:
        body = Email(email.payload(lease.key), email.idempotency_key).body().decode()
        member = EmailIdentity(self.store.names.mail(email.idempotency_key), email.content)
        return SendRequest(member.name, lease.account, email.idempotency_key, body, (member,))

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Write down what became of the call, and tell jobs of this process that mean one of its emails."""
        request = self.request
        await super().after(lease, reply)
        if request is None:
            return
        if reply.verdict.code in EMAIL_QUOTAS:
            size = len(request.members)
            self._batch_sizes.refused(lease.account, size=size)
            if size > 1:
                _logger.info(
                    "📦 The quota of %s has no room for %d emails at once: fewer follow",
                    lease.key.label,
                    size,
                )
        self._in_flight.end(request.name, fault_of(reply.verdict) if self.in_doubt else None)

    async def _seal(self, request: SendRequest, lease: Lease) -> list[int]:
        if self._in_flight.find(request.name) is not None:  # a copy of it is just going
            return [0]
        self._in_flight.begin(request.name)
        known: list[int] = []
        try:
            known = await retry_while_down(lambda: self.store.claim(request, by=lease.id))
        except BaseException:
            self._in_flight.end(request.name)
            # It may be sealed although nothing was sent.
            await asyncio.shield(asyncio.ensure_future(self._try(self._free(request, lease))))
            raise
        if known:
            self._in_flight.end(request.name)
        return known

    async def _free(self, request: SendRequest, lease: Lease) -> None:
        await self.store.release(request, by=lease.id)

    def _leave(self, email: OutgoingEmail) -> None:
        email.known = True
        waiter = self.batch.pop(email)
        if waiter is not None:
            wake(waiter, Outcome(Wake.LOOK_AGAIN))


class _Batch:
    """What goes out with one lease, within the bounds of a batch and of the quotas that are known."""

    def __init__(self, lease: Lease, *, most: int) -> None:
        self.requests: dict[OutgoingEmail, SendRequest] = {}
        self.keys: set[str] = set()
        self._most = most
        self._bytes = 0
        self._spare = lease.spare_emails

    def take(self, email: OutgoingEmail, request: SendRequest) -> bool:
        """Add an email; False where there is no room.

        The first one is what the lease was taken for.
        """
        size = self._bytes + len(request.body)
        spare = self._spare
        if self.requests:
            spare = None if spare is None else spare - email.recipients
            full = len(self.requests) >= self._most or size > _MOST_BATCH_BYTES
            if full or (spare is not None and spare < 0):
                return False
        self._bytes, self._spare = size, spare
        self.requests[email] = request
        self.keys.add(email.idempotency_key)
        return True


class RepeatAttempt(_Attempt):
    """A later attempt of a request, exactly as it is."""

    def __init__(self, store: IdempotencyStore, email: OutgoingEmail, request: SendRequest) -> None:
        super().__init__(store)
        self.in_doubt = True
        self._email = email
        self._meant = request

    async def before(self, lease: Lease) -> Sealed:  # noqa: ARG002 - any key of the account will do
        """Take the request over."""
        if not await retry_while_down(lambda: self.store.reclaim(self._meant)):
            raise Overtaken
        self._email.calls += 1
        return self._calling(self._meant)


def fault_of(verdict: Verdict) -> TransientError:
    """What a job is told whose email may have been accepted."""
    fault = TransientError(verdict.reason or verdict.code, verdict.backoff_ms)
    fault.in_doubt, fault.own = True, False  # it was another job's call
    return fault


def _results(reply: Reply, label: str) -> list[dict[str, Any] | None]:
    value = reply.value or {}
    results = value.get("results", [value])
    return [{"id": one["id"], "key": label} if "id" in one else None for one in results]
