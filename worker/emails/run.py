"""Runs the job of one email: sends it, waits for a job that sends it, or repeats a request."""

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field, replace

from worker import attempts, telemetry
from worker.emails.attempt import NothingToSend, RepeatAttempt
from worker.emails.batching import MOST_IN_BATCH, BatchQueue, BatchSizes, NextStep, Outcome
from worker.emails.first_attempt import FirstAttempt
from worker.emails.idempotency import IdempotencyStore, SendRecord, State
from worker.emails.in_flight import Ended, InFlightSends
from worker.emails.outcomes import (
    SOON_MS,
    leader_stopped,
    own_copy,
    part_of,
    queue_timeout,
    sent_elsewhere,
)
from worker.emails.outgoing import OutgoingEmail
from worker.errors import (
    Deferred,
    InvalidArguments,
    OutcomeUnknown,
    RequestRejected,
    Rescheduled,
    TransientError,
)
from worker.foreign_json import as_text
from worker.keypool import LeaseRequest
from worker.providers import SendRequest
from worker.redis.retry import retry_while_down
from worker.rotation.call_hooks import CallHooks
from worker.rotation.rotation import Rotation
from worker.rotation.served import Served
from worker.verdicts import UNFINISHED

_logger = logging.getLogger(__name__)

_MOST_FRESH_STARTS = 8
"""After so many waits and looks the job is deferred.

Another job is ahead once or twice. If that happens more often, many jobs send the same email.
"""


@dataclass(slots=True)
class SharedState:
    """The state that all runs in one process share.

    Attributes:
        rotation: Resend's keys and calls.
        store: The idempotency store, which keeps requests and results.
        at_least_once: Another account sends an email in doubt if its own account is gone.
        queues: The emails that wait, by from-domain, excluded keys and priority.
        leaders: The attempts of the current leaders.
        in_flight: The requests that this process is sending.
        batch_sizes: Limits how many emails may go together.
        went_alone: For each of the latest emails, whether it had to go alone.
    """

    rotation: Rotation[SendRequest]
    store: IdempotencyStore
    at_least_once: bool
    queues: dict[tuple[str, frozenset[str], bool], BatchQueue] = field(default_factory=dict)
    leaders: set[FirstAttempt] = field(default_factory=set)
    in_flight: InFlightSends = field(default_factory=InFlightSends)
    batch_sizes: BatchSizes = field(default_factory=BatchSizes)
    went_alone: deque[bool] = field(default_factory=lambda: deque(maxlen=MOST_IN_BATCH))


class EmailRun:
    """One run of the job of one email.

    Args:
        shared: The state that all runs in this process share.
        lease_request: What a call with the email needs of a key.
        email: The email.
    """

    def __init__(
        self, shared: SharedState, lease_request: LeaseRequest, email: OutgoingEmail
    ) -> None:
        self._shared = shared
        self._lease_request = lease_request
        self._email = email
        self._may_be_sent_twice = shared.at_least_once and not email.unsendable
        self._deferral: Deferred | None = None

    async def serve(self) -> Served:
        """Send the email, or return the result of another job that has sent it.

        Raises:
            Rescheduled: The job must come again.
            JobError: The job fails.
        """
        email = self._email
        is_new = not (email.known or email.unsendable)
        step = NextStep.SEND if is_new else NextStep.LOOK_AGAIN
        fresh_starts = 0
        while fresh_starts < _MOST_FRESH_STARTS:
            match step:
                case NextStep.SEND | NextStep.WAIT:
                    result = await self._send()
                case NextStep.LOOK_AGAIN:
                    result = await self._look_up()
            if isinstance(result, Served):
                return result
            fresh_starts += result is not NextStep.SEND
            step = result
        if step is NextStep.LOOK_AGAIN:
            raise sent_elsewhere()
        raise self._deferral or queue_timeout()

    async def _look_up(self) -> Served | NextStep:
        """Act on the store's record of the email. Return `SEND` if the email may be sent as new."""
        match record := await self._record():
            case SendRecord(state=State.FREE) if not self._email.late or self._may_be_sent_twice:
                return NextStep.SEND
            case SendRecord(state=State.MISMATCH):
                error = InvalidArguments(
                    "idempotency_key: was used for an email with different content within the last "
                    "three days"
                )
                error.another_email = True
                raise error
            case SendRecord(state=State.SENT, result=result):
                return Served(
                    {"id": result["id"]}, as_text(result.get("key")), attempts=0, waited_ms=0
                )
            case SendRecord(state=State.BUSY | State.OPEN) if ended := self._in_flight(record):
                await self._join(ended)
                return NextStep.LOOK_AGAIN
            case SendRecord(state=State.BUSY):
                raise sent_elsewhere()
            case SendRecord(state=State.OPEN, request=SendRequest() as request):
                return await self._repeat(record, request)
            case SendRecord(state=State.STALE) if self._may_be_sent_twice:
                return await self._leave_account(record)
            case SendRecord(state=State.UNREADABLE):
                name = self._shared.store.names.mail(self._email.idempotency_key)
                raise OutcomeUnknown(
                    f"another program has changed this email's record in Redis, {name}: an earlier "
                    "attempt may have been accepted. Delete that record if you are sure that no "
                    "attempt was accepted"
                )
        raise OutcomeUnknown(
            "an earlier attempt may have been accepted, and it is too long ago to be repeated "
            "safely"
        )

    async def _record(self) -> SendRecord:
        store = self._shared.store
        identity = store.identity_of(self._email.idempotency_key, self._email.content_hash)
        try:
            record = await retry_while_down(lambda: store.get(identity))
            if record.request is not None and self._in_flight(record) is None:
                # A call of this process may have ended while the record was being read.
                record = await retry_while_down(lambda: store.get(identity))
        except Rescheduled as error:
            error.in_doubt = True  # without the record, the email may have been accepted
            raise
        return record

    def _in_flight(self, record: SendRecord) -> Ended | None:
        if record.request is None:
            return None
        return self._shared.in_flight.find(record.request.idempotency_key)

    async def _join(self, ended: Ended) -> None:
        """Wait for another job of this process that is sending the same email."""
        email, began_s = self._email, time.monotonic()
        await asyncio.wait({ended}, timeout=email.left_s())
        email.waited_ms += round((time.monotonic() - began_s) * 1000)
        if not ended.done():
            raise sent_elsewhere()
        error = own_copy(ended.result())
        if error is not None:
            raise error

    async def _repeat(self, record: SendRecord, request: SendRequest) -> Served | NextStep:
        """Send a request again unchanged, and let other jobs of this process wait for it."""
        in_flight, key = self._shared.in_flight, request.idempotency_key
        in_flight.begin(key)
        error: Deferred | TransientError | None = None
        try:
            return await self._repeat_with_account(record, request)
        except (Deferred, TransientError) as exc:
            error = exc
            raise
        finally:
            in_flight.end(key, error)

    async def _repeat_with_account(
        self, record: SendRecord, request: SendRequest
    ) -> Served | NextStep:
        shared, email = self._shared, self._email
        # The recipients were charged against the quotas at the first attempt.
        lease_request = replace(
            self._lease_request, account=request.account, exclude=frozenset(), emails=0
        )
        attempt = RepeatAttempt(shared.store, email, record)
        try:
            served = await self._call(lease_request, attempt)
        except NothingToSend:
            return NextStep.LOOK_AGAIN
        except (Deferred, TransientError) as error:
            error.in_doubt = True
            email.waited_ms += error.waited_ms
            if self._may_be_sent_twice and isinstance(error, Deferred) and error.for_good:
                return await self._leave_account(record)
            raise
        except (OutcomeUnknown, RequestRejected) as error:
            if self._may_be_sent_twice:
                return await self._leave_account(record)
            if isinstance(error, OutcomeUnknown):
                raise
            raise OutcomeUnknown(
                "an earlier attempt may have been accepted, and the same account refuses to repeat "
                f"it: {error}"
            ) from None
        email.waited_ms += served.waited_ms
        own = shared.store.names.mail(email.idempotency_key)
        return part_of(served, [member.record for member in request.emails].index(own))

    async def _call(self, lease_request: LeaseRequest, attempt: CallHooks[SendRequest]) -> Served:
        """Ask for a key and make the call.

        If Resend is still processing an earlier call for the email, the job is deferred. That costs
        no retry.
        """
        try:
            return await self._shared.rotation.run(
                lease_request, attempt, longest_s=self._email.left_s()
            )
        except TransientError as error:
            if error.code != UNFINISHED:
                raise
            deferral = sent_elsewhere()
            deferral.waited_ms = error.waited_ms
            raise deferral from None

    async def _leave_account(self, record: SendRecord) -> NextStep:
        """Free the emails of a request in doubt, so that another account may send them."""
        _logger.warning(
            "%d email(s) that may have been accepted are sent again, with another account",
            len(record.request.emails) if record.request else 0,
        )
        await retry_while_down(lambda: self._shared.store.delete(record))
        return NextStep.SEND

    async def _send(self) -> Served | NextStep:
        """Send a new email, as the leader of the queue or behind one."""
        shared, email, need = self._shared, self._email, self._lease_request
        if email.unsendable:
            raise InvalidArguments(email.unsendable)
        shared.went_alone.append(not email.batchable)
        if not email.batchable:
            return await self._lead(None)
        name = need.resource, need.exclude, need.bulk
        queue = shared.queues.setdefault(name, BatchQueue())
        try:
            outcome = await queue.wait(email) if queue.led else Outcome(NextStep.SEND)
            if outcome is None:
                raise queue_timeout()
            if outcome.result is not NextStep.SEND:
                return self._follow(outcome)
            queue.lead(email)
            return await self._lead(queue)
        finally:
            if not queue.led and not queue.waiters and shared.queues.get(name) is queue:
                del shared.queues[name]

    def _follow(self, outcome: Outcome) -> Served | NextStep:
        """Take over the outcome of the leader's call for this email."""
        for call in outcome.calls:
            attempts.note_again(call)
            telemetry.note_shared_attempt(self._shared.rotation.pool.service, call)
        if isinstance(outcome.result, BaseException):
            raise outcome.result
        if outcome.result is NextStep.WAIT:
            self._deferral = None
        return outcome.result

    async def _lead(self, queue: BatchQueue | None) -> Served | NextStep:
        """Ask for a key, and send the email together with those that it takes along."""
        shared, email = self._shared, self._email
        attempt = FirstAttempt(
            store=shared.store,
            pool=shared.rotation.pool,
            in_flight=shared.in_flight,
            batch_sizes=shared.batch_sizes,
            leader=email,
            queue=queue,
        )
        shared.leaders.add(attempt)
        try:
            served = await self._call(self._lease_request, attempt)
        except NothingToSend:
            return NextStep.LOOK_AGAIN
        except (Deferred, TransientError) as error:
            return self._after(error, attempt)
        except RequestRejected:
            if list(attempt.batch) == [email]:
                raise
            # A single email may be the reason why all were refused, so each goes alone.
            for email in attempt.batch:
                email.batchable = False
            attempt.wake_followers(NextStep.LOOK_AGAIN)
            return NextStep.LOOK_AGAIN
        except BaseException:
            attempt.wake_followers(leader_stopped() if attempt.in_doubt else NextStep.LOOK_AGAIN)
            raise
        finally:
            shared.leaders.discard(attempt)
            attempt.hand_over()
        email.waited_ms += served.waited_ms
        return attempt.share(served)

    def _after(self, error: Deferred | TransientError, attempt: FirstAttempt) -> NextStep:
        """Let the leader and its followers wait for a key that is free soon, or end their runs."""
        email = self._email
        email.waited_ms += error.waited_ms
        error.in_doubt = attempt.in_doubt
        if isinstance(error, Deferred) and attempt.calls and self._is_worth_waiting(error):
            # One turn of the rotation uses no key twice. If a key is free within two seconds, a
            # further turn is better than a deferral.
            attempt.wake_followers(NextStep.WAIT)
            self._deferral = error
            return NextStep.WAIT
        attempt.wake_followers(error)
        attempt.end_queue(error)
        if email not in attempt.batch:  # another job had sent it; the call carried only followers
            return NextStep.LOOK_AGAIN
        raise error

    def _is_worth_waiting(self, error: Deferred) -> bool:
        left_s, countdown_ms = self._email.left_s(), error.countdown_ms
        is_in_time = left_s is None or countdown_ms / 1000 <= left_s
        return not error.in_doubt and countdown_ms <= 2 * SOON_MS and is_in_time
