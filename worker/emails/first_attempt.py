"""Makes the first attempt for new emails: a leader and its followers."""

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Container, Mapping

from worker.aio.errors import Revoked
from worker.aio.time_limits import HeldTimeLimits
from worker.cancellations import is_cancelled
from worker.emails.attempt import EmailAttempt, NothingToSend
from worker.emails.batching import BatchQueue, BatchSizes, NextStep, Outcome, Waiter, wake
from worker.emails.idempotency import IdempotencyStore
from worker.emails.in_flight import InFlightSends
from worker.emails.outcomes import error_of, own_copy, part_of
from worker.emails.outgoing import OutgoingEmail
from worker.errors import Deferred, RequestRejected, TransientError
from worker.foreign_json import member
from worker.keypool import KeyPool, Lease
from worker.providers import EMAIL_QUOTAS, SendRequest
from worker.redis.retry import retry_while_down
from worker.rotation.served import Served
from worker.verdicts import Fate, Reply

_logger = logging.getLogger(__name__)

_MOST_BATCH_BYTES = 4 * 1024 * 1024


class FirstAttempt(EmailAttempt):
    """The hooks around the calls of a leader, which takes the emails of its queue along.

    Args:
        store: The idempotency store, which keeps requests and results.
        pool: Resend's keys.
        in_flight: The requests that this process is sending.
        batch_sizes: Limits how many emails may go together.
        leader: The email that asks for a key.
        queue: The emails that wait. None: the email goes alone.

    Attributes:
        batch: The emails of the next or the latest call, each with its waiter. The leader makes the
            call itself, so its waiter is None.
        leads: The leader of this attempt still leads the queue.
    """

    def __init__(
        self,
        *,
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
        self._queue = queue
        self._may_be_sent = False
        self.leader = leader
        self.batch: dict[OutgoingEmail, Waiter | None] = {leader: None}
        self.leads = queue is not None

    async def before(self, lease: Lease) -> SendRequest:
        """Fill the batch, let the next email lead, and claim the request.

        While batches are being halved to find the room in a quota, the next email leads only after
        this call, which decides the size of the next batch.

        Raises:
            NothingToSend: Other jobs have sent every email of the batch, or are sending it.
        """
        try:
            request = await self._prepare(lease)
        except BaseException:
            self.hand_over()
            raise
        self.request = request
        return request

    async def _prepare(self, lease: Lease) -> SendRequest:
        self._may_be_sent = True
        requests, left_out = self._fill(lease)
        try:
            await self._leave_out_cancelled(requests)
            more = sum(email.recipients for email in requests) - lease.request.emails
            if lease.spare_emails is not None and more > 0:
                # Done first, before another lease counts on the same remainder of the quota.
                await retry_while_down(lambda: self._pool.extend(lease, more))
        finally:
            for waiter in left_out:
                wake(waiter, Outcome(NextStep.WAIT))
        if not self._batch_sizes.is_searching(lease.account):
            self.hand_over()
        request = await self._claim(requests, lease)
        for email in requests:
            email.calls += 1
        if request.is_batch:
            _logger.info("📦 %d emails go out in one call", len(requests))
        return request

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Store the outcome of the call, and wake this process' other jobs of the same email."""
        request = self.request
        if request is not None and reply.verdict.code in EMAIL_QUOTAS:
            self._learn_size(lease, size=len(request.emails))
        self.hand_over()
        await super().after(lease, reply)
        if request is None:
            return
        error = error_of(reply.verdict) if self.in_doubt else None
        self._in_flight.end(request.idempotency_key, error)
        self._may_be_sent = self.in_doubt or reply.verdict.fate is Fate.DONE

    def recipients(self, reply: Reply) -> Mapping[str, int]:
        """Count the recipients of the emails that were accepted, by tenant."""
        results = member(reply.value, "results")
        counts: Counter[str] = Counter()
        for index, email in enumerate(self.batch):
            is_accepted = results is None or "id" in results[index]
            counts[email.tenant] += email.recipients if is_accepted else 0
        return counts

    def hand_over(self) -> None:
        """Let the next email in the queue lead. A second call does nothing."""
        if self._queue is not None and self.leads:
            self.leads = False
            self._queue.wake_next()

    def cancel(self, jobs: Container[str]) -> None:
        """End the wait of cancelled followers, unless a call may already carry their emails."""
        for email, waiter in self.batch.items():
            if waiter is not None and email.job in jobs and not self._may_be_sent:
                wake(waiter, Outcome(Revoked()))

    def wake_followers(self, result: Deferred | TransientError | NextStep) -> None:
        """Give every follower the same outcome."""
        for waiter in self.batch.values():
            if waiter is not None:
                wake(waiter, Outcome(own_copy(result), tuple(self.calls)))

    def end_queue(self, error: Deferred | TransientError) -> None:
        """Give the error to every email of a queue that this attempt still leads."""
        if self._queue is not None and self.leads:
            for waiter in self._queue.waiters.values():
                wake(waiter, Outcome(own_copy(error)))

    def share(self, served: Served) -> Served | NextStep:
        """Give each follower its own result.

        Returns:
            The leader's result, or `LOOK_AGAIN` if another job had sent its email.

        Raises:
            RequestRejected: Resend refused the leader's email.
        """
        for index, waiter in enumerate(self.batch.values()):
            if waiter is None:
                continue
            try:
                result: Served | Exception = part_of(served, index)
            except RequestRejected as exc:
                result = exc
            wake(waiter, Outcome(result, tuple(self.calls)))
        if self.leader not in self.batch:
            return NextStep.LOOK_AGAIN
        return part_of(served, list(self.batch).index(self.leader))

    def _fill(self, lease: Lease) -> tuple[dict[OutgoingEmail, SendRequest], list[Waiter]]:
        """Fill the batch with emails that wait, as far as there is room.

        Returns:
            A single-email request for each email, and the waiters of the emails that are left out.
        """
        left_out = []
        builder = _BatchBuilder(lease, most=self._batch_sizes.limit(lease.account))
        for email, waiter in list(self.batch.items()):  # the leader, or a refused call's emails
            is_gone = waiter is not None and waiter.done()
            if is_gone or not builder.take(email, self._single(email, lease)):
                del self.batch[email]
                left_out += [] if waiter is None else [waiter]
        if self._queue is not None:
            self._take_along(self._queue, builder, lease)
        return builder.requests, left_out

    def _take_along(self, queue: BatchQueue, builder: "_BatchBuilder", lease: Lease) -> None:
        for email, waiter in queue.in_turn():
            if email.idempotency_key in builder.keys:  # a copy, which must wait for the outcome
                continue
            if not builder.take(email, self._single(email, lease)):
                return
            queue.take(email)
            self.batch[email] = waiter

    async def _leave_out_cancelled(self, requests: dict[OutgoingEmail, SendRequest]) -> None:
        """Leave out followers whose jobs were cancelled. The rotation checks the leader's job."""
        followers = [email for email in requests if self.batch[email] is not None]
        cancelled = await asyncio.gather(*(is_cancelled(email.job) for email in followers))
        for email, is_gone in zip(followers, cancelled, strict=True):
            if is_gone:
                del requests[email]
                self._leave_out(email, Outcome(Revoked()))

    def _leave_out(self, email: OutgoingEmail, outcome: Outcome) -> None:
        waiter = self.batch.pop(email)
        if waiter is not None:
            wake(waiter, outcome)

    def _single(self, email: OutgoingEmail, lease: Lease) -> SendRequest:
        identity = self.store.identity_of(email.idempotency_key, email.content_hash)
        return SendRequest.single(
            email.payload(lease.key),
            email.idempotency_key,
            account=lease.account,
            emails=(identity,),
        )

    async def _claim(self, requests: dict[OutgoingEmail, SendRequest], lease: Lease) -> SendRequest:
        """Claim one request for all emails that no other job has sent or is sending."""
        while requests:
            [request, *others] = requests.values()
            if others:
                request = SendRequest.batch([request, *others], number=uuid.uuid4().hex)
            known = await self._claim_unless_known(request, lease)
            if not known:
                return request
            emails = list(requests)
            for index in known:
                del requests[emails[index]]
                self._leave_out(emails[index], Outcome(NextStep.LOOK_AGAIN))
        raise NothingToSend

    async def _claim_unless_known(self, request: SendRequest, lease: Lease) -> list[int]:
        key = request.idempotency_key
        if self._in_flight.find(key) is not None:  # another job is sending the same email
            return [0]
        self._in_flight.begin(key)
        known: list[int] = []
        try:
            known = await retry_while_down(lambda: self.store.claim(request, by=lease.id))
        except BaseException:
            self._in_flight.end(key)
            # Redis may have claimed the request, or may do so after a hang, although nothing was
            # sent. Unless it is released, no job can send the email until the claim ends.
            release = self._try(lambda: self.store.release(request, by=lease.id), later=True)
            with HeldTimeLimits():
                await asyncio.shield(asyncio.ensure_future(release))
            raise
        if known:
            self._in_flight.end(key)
        return known

    def _learn_size(self, lease: Lease, *, size: int) -> None:
        self._batch_sizes.refused(lease.account, size=size)
        if size > 1:
            _logger.info(
                "📦 The quota of %s has no room for %d emails at once: the next batch is smaller",
                lease.key.label,
                size,
            )


class _BatchBuilder:
    """Collects emails for one call, within the bounds of a batch and the known quotas."""

    def __init__(self, lease: Lease, *, most: int) -> None:
        self.requests: dict[OutgoingEmail, SendRequest] = {}
        self.keys: set[str] = set()
        self._most = most
        self._bytes = 0
        self._spare = lease.spare_emails

    def take(self, email: OutgoingEmail, request: SendRequest) -> bool:
        """Add an email, or return False if there is no room for it.

        The first email always has room, because the lease was acquired for it.
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
