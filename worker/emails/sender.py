"""How an email of a job goes out.

By its request if it has one, else alone or together with those that wait.
"""

import asyncio
import logging
import random
import time
from dataclasses import replace
from typing import Any, TypeVar, cast

from worker import attempts
from worker.emails.attempt import (
    FirstAttempt,
    InFlightSends,
    InLine,
    Overtaken,
    RepeatAttempt,
    StartOver,
)
from worker.emails.batch_size import BatchSizes
from worker.emails.batching import BatchQueue, Outcome, Wake, wake
from worker.emails.demand import EmailDemand
from worker.emails.idempotency import (
    EmailIdentity,
    IdempotencyStore,
    SendRecord,
    SendRequest,
    State,
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
from worker.keypool import LeaseRequest
from worker.providers import Email, Sealed
from worker.redis.retry import retry_while_down
from worker.rotation.rotation import Rotation
from worker.rotation.served import Served

_logger = logging.getLogger(__name__)

# an email is overtaken once or twice; more often is a crowd of copies, which may as well wait
_ROUNDS = 8
_SOON_MS = 1_000
_SPREAD_MS = (
    500  # emails that were deferred together come back nearly together, and go out together
)


class EmailSender:
    """Sends emails, each once.

    Args:
        rotation: Resend's.
        store: Where requests and results are.
        batches: Emails that wait for a key in this process go out together.
        at_least_once: An email whose account is gone while its outcome is unknown goes to another
            account.
    """

    def __init__(
        self,
        rotation: Rotation[Email | Sealed],
        store: IdempotencyStore,
        *,
        batches: bool = True,
        at_least_once: bool = False,
    ) -> None:
        self.rotation = rotation
        self.store = store
        self._batches = batches
        self._at_least_once = at_least_once
        self._queues: dict[tuple[str, frozenset[str], bool], BatchQueue] = {}
        self.demand = EmailDemand(rotation.waiting.demand, self._queues)
        self._in_flight = InFlightSends()
        self._batch_sizes = BatchSizes()

    async def serve(
        self, lease_request: LeaseRequest, email: OutgoingEmail, *, longest_s: float | None = None
    ) -> Served:
        """Send an email, or give the result that another job got for it.

        Args:
            lease_request: What its call needs of a key.
            email: The email.
            longest_s: The longest wait over the whole turn, in seconds; None: however long it
                takes.

        Raises:
            Deferred: No key can serve now, or another job is sending the same email.
            TransientError: Resend failed in a way that may pass.
            InvalidArguments: The idempotency key was used for another email, or it is new and
                `email.unsendable`.
            RequestRejected: Resend refuses the email for good.
            OutcomeUnknown: It may have been accepted, and there is no safe way to find out.
        """
        try:
            email.until_s = None if longest_s is None else time.monotonic() + longest_s
            served = await self._serve(lease_request, email)
        except Rescheduled as over:
            over.attempts, over.waited_ms = email.calls, email.waited_ms
            raise
        return replace(served, attempts=email.calls, waited_ms=email.waited_ms)

    async def _serve(self, lease_request: LeaseRequest, email: OutgoingEmail) -> Served:
        member = EmailIdentity(self.store.names.mail(email.idempotency_key), email.content)
        email.known = email.known or bool(email.unsendable)  # a copy of it may have been sent
        why: Deferred = _in_a_crowd()
        for _ in range(_ROUNDS):
            try:
                if email.known:
                    served = await self._by_the_outbox(
                        lease_request, email, await self._look(member)
                    )
                    if served is not None:
                        return served
                return await self._first_attempt(lease_request, email)
            except StartOver as over:
                email.known = email.known or isinstance(over, Overtaken)
                why = over.why or (_elsewhere() if isinstance(over, Overtaken) else _in_a_crowd())
        raise why

    async def _look(self, member: EmailIdentity) -> SendRecord:
        try:
            found = await retry_while_down(lambda: self.store.get(member))
            if found.request is not None and self._in_flight.find(found.request.name) is None:
                # A call of this process may have ended while the answer was on its way.
                found = await retry_while_down(lambda: self.store.get(member))
        except Rescheduled as over:
            over.in_doubt = True  # nobody can say, so nobody may promise
            raise
        return found

    async def _by_the_outbox(
        self, lease_request: LeaseRequest, email: OutgoingEmail, found: SendRecord
    ) -> Served | None:
        """Do what is left to do for an email that was seen before; None.

        Nothing was sent, send it now.
        """
        match found:
            case SendRecord(state=State.FREE) if not email.late or self._may_go_twice(email):
                return None
            case SendRecord(state=State.MISMATCH):
                error = InvalidArguments(
                    "idempotency_key: was used for an email with another content within the last "
                    "three days"
                )
                error.another_email = True
                raise error
            case SendRecord(state=State.SENT, result=result):
                return Served({"id": result["id"]}, result["key"], attempts=0, waited_ms=0)
            case SendRecord(state=State.BUSY | State.OPEN, request=SendRequest(name=name)) if (
                self._in_flight.find(name)
            ):
                await self._join(email, name)
                raise Overtaken
            case SendRecord(state=State.BUSY):
                raise _elsewhere()
            case SendRecord(state=State.OPEN, request=SendRequest() as request):
                self._in_flight.begin(request.name)
                why: Deferred | TransientError | None = None
                try:
                    return await self._again(lease_request, email, request)
                except (Deferred, TransientError) as over:
                    why = over
                    raise
                finally:
                    self._in_flight.end(request.name, why)
            case SendRecord(state=State.STALE, request=SendRequest() as request) if (
                self._may_go_twice(email)
            ):
                await self._move_on(request)
                return None
        raise OutcomeUnknown(
            "an earlier attempt may have been accepted, and it is too long ago to be asked for "
            "safely"
        )

    def _may_go_twice(self, email: OutgoingEmail) -> bool:
        return self._at_least_once and not email.unsendable

    async def _join(self, email: OutgoingEmail, name: str) -> None:
        """Wait for another job of this process that sends the same email."""
        end = self._in_flight.find(name)
        assert end is not None  # noqa: S101 - looked at in the same step of the loop
        began = time.monotonic()
        await asyncio.wait({end}, timeout=email.left_s())
        email.waited_ms += round((time.monotonic() - began) * 1000)
        if not end.done():
            raise _elsewhere()
        why = _copy(end.result())
        if why is not None:
            raise why

    async def _again(
        self, lease_request: LeaseRequest, email: OutgoingEmail, request: SendRequest
    ) -> Served | None:
        """Send a request again, as it is; None.

        Its account is gone, and the email may go elsewhere.
        """
        attempt = RepeatAttempt(self.store, email, request)
        # What it counts against quotas was charged at its first attempt.
        bound = replace(lease_request, account=request.account, exclude=frozenset(), emails=0)
        try:
            served = await self.rotation.run(bound, attempt, longest_s=email.left_s())
        except (Deferred, TransientError) as over:
            over.in_doubt = True
            email.waited_ms += over.waited_ms
            if self._may_go_twice(email) and isinstance(over, Deferred) and over.for_good:
                await self._move_on(request)
                return None
            raise
        except (OutcomeUnknown, RequestRejected) as exc:
            if self._may_go_twice(email):
                await self._move_on(request)
                return None
            if isinstance(exc, OutcomeUnknown):
                raise
            raise OutcomeUnknown(
                "an earlier attempt may have been accepted, and its account refuses a later one: "
                f"{exc}"
            ) from None
        email.waited_ms += served.waited_ms
        names = [member.name for member in request.members]
        return _own(served, names.index(self.store.names.mail(email.idempotency_key)))

    async def _move_on(self, request: SendRequest) -> None:
        _logger.warning(
            "%d email(s) that may have been accepted are sent again, with another account",
            len(request.members),
        )
        await retry_while_down(lambda: self.store.delete(request))

    async def _first_attempt(self, lease_request: LeaseRequest, email: OutgoingEmail) -> Served:
        if email.unsendable:
            raise InvalidArguments(email.unsendable)
        if not (self._batches and email.batchable):
            return await self._lead(lease_request, email, None)
        name = lease_request.resource, lease_request.exclude, lease_request.bulk
        queue = self._queues.setdefault(name, BatchQueue())
        try:
            return await self._in_queue(lease_request, email, queue)
        finally:
            if not queue.led and not queue.waiters and self._queues.get(name) is queue:
                del self._queues[name]

    async def _in_queue(
        self, lease_request: LeaseRequest, email: OutgoingEmail, queue: BatchQueue
    ) -> Served:
        if queue.led:
            outcome = await queue.wait(email)
            if outcome is None:
                raise _in_a_crowd()
            if outcome.result is not Wake.LEAD:
                return _take(outcome)
        queue.led = True
        return await self._lead(lease_request, email, queue)

    async def _lead(
        self, lease_request: LeaseRequest, email: OutgoingEmail, queue: BatchQueue | None
    ) -> Served:
        """Ask for a key, and send the email with those that it takes along."""
        attempt = FirstAttempt(
            self.store, self.rotation.pool, self._in_flight, self._batch_sizes, email, queue
        )
        try:
            served = await self.rotation.run(lease_request, attempt, longest_s=email.left_s())
        except (Deferred, TransientError) as over:
            email.waited_ms += over.waited_ms
            over.in_doubt = attempt.in_doubt
            if (
                isinstance(over, Deferred)
                and not over.in_doubt
                and attempt.calls
                and _soon(over, email)
            ):
                # A turn of the rotation calls no key twice; a rate limit that opens in a second is
                # worth another turn.
                _wake_all(attempt, Wake.WAIT)
                raise _in_line(over) from None
            _wake_all(
                attempt, over, () if queue is None or attempt.handed_over else tuple(queue.waiters)
            )
            if email not in attempt.batch:  # another job had its email: this was the others' call
                raise Overtaken from None
            raise
        except RequestRejected:
            if list(attempt.batch) == [email]:
                raise
            # One of them may be at fault for all: each by itself will tell.
            for other in attempt.batch:
                other.batchable = False
            _wake_all(attempt, Wake.LOOK_AGAIN)
            raise Overtaken from None
        except BaseException:
            _wake_all(attempt, _stopped() if attempt.in_doubt else Wake.LOOK_AGAIN)
            raise
        finally:
            if queue is not None and not attempt.handed_over:
                queue.wake_next()
        email.waited_ms += served.waited_ms
        return _share_out(attempt, served)


def _in_a_crowd() -> Deferred:
    return Deferred(random.randint(_SOON_MS, 3 * _SOON_MS), "many emails wait for the rate limit")  # noqa: S311


def _soon(over: Deferred, email: OutgoingEmail) -> bool:
    left_s = email.left_s()
    return over.countdown_ms <= 2 * _SOON_MS and (
        left_s is None or over.countdown_ms / 1000 <= left_s
    )


def _in_line(over: Deferred) -> InLine:
    found = InLine()
    found.why = over
    return found


def _elsewhere() -> Deferred:
    deferred = Deferred(
        random.randint(_SOON_MS, 2 * _SOON_MS),  # noqa: S311
        "another job is sending the same email",
        "same_email",
    )
    deferred.in_doubt = True
    return deferred


def _stopped() -> TransientError:
    fault = TransientError("the job that made the call was stopped")
    fault.own = False
    fault.in_doubt = True
    return fault


def _wake_all(
    attempt: FirstAttempt,
    why: Deferred | TransientError | Wake,
    line: tuple[OutgoingEmail, ...] = (),
) -> None:
    """Tell everybody who went along, and a line that nobody leads any more, how the turn ended."""
    calls = tuple(attempt.calls)
    for waiter in attempt.batch.values():
        if waiter is not None:
            wake(waiter, Outcome(_copy(why), calls))
    if attempt.queue is not None:
        for email in line:
            wake(attempt.queue.waiters[email], Outcome(_copy(why)))


WhyT = TypeVar("WhyT")


def _copy(why: WhyT) -> WhyT:
    """An error of one's own for each job.

    An error that several raise would gather the stacks of all.
    """
    if not isinstance(why, Deferred | TransientError):
        return why
    found: Any
    if isinstance(why, Deferred):
        found = Deferred(why.countdown_ms + random.randint(0, _SPREAD_MS), why.reason, why.code)  # noqa: S311
    else:
        found = TransientError(why.reason, why.backoff_ms)
        found.code, found.own = why.code, why.own
    found.in_doubt = why.in_doubt
    return cast("WhyT", found)


def _share_out(attempt: FirstAttempt, served: Served) -> Served:
    """Give each email of a batch its own result; returns the leader's."""
    for place, waiter in enumerate(attempt.batch.values()):
        if waiter is None:
            continue
        try:
            outcome: Served | Exception = _own(served, place)
        except RequestRejected as exc:
            outcome = exc
        wake(waiter, Outcome(outcome, tuple(attempt.calls)))
    if attempt.leader not in attempt.batch:
        raise Overtaken
    return _own(served, list(attempt.batch).index(attempt.leader))


def _own(served: Served, place: int) -> Served:
    """One email's part of an answer.

    Raises:
        RequestRejected: It alone was refused.
    """
    results = served.value.get("results")
    one = served.value if results is None else results[place]
    if "error" in one:
        raise RequestRejected(f"rejected: {one['error']}")
    return Served({"id": one["id"]}, served.key, attempts=0, waited_ms=0)


def _take(outcome: Outcome) -> Served:
    """Make what an email in line was told its own."""
    for call in outcome.calls:
        attempts.note(call.key, call.code, in_doubt=call.in_doubt)
    match outcome.result:
        case Served():
            return outcome.result
        case Wake.WAIT:
            raise InLine
        case Wake():
            raise Overtaken
        case error:
            raise error
