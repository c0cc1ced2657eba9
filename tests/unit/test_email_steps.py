"""One step of an email's run: it looks the email up, repeats it, leads a batch, or follows.

With a real store and real calls: `tests/integration/emails`.
"""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.email_bench import NAMES, REQUEST, SENT, SERVED, Store, run_of, shared
from worker.attempts import Attempt, begin, of_this_run
from worker.emails import run as runs
from worker.emails.attempt import NothingToSend
from worker.emails.batching import BatchQueue, NextStep, Outcome
from worker.emails.idempotency import SendRecord, State
from worker.errors import (
    Deferred,
    InvalidArguments,
    OutcomeUnknown,
    RequestRejected,
    TransientError,
)
from worker.providers import EmailIdentity, SendRequest
from worker.rotation.served import Served
from worker.verdicts import UNFINISHED

CALL = Attempt(1, "re_abc...", "timeout", in_doubt=True)


# What is known of an email, and the next step of its run; then the step if it may be sent twice.
@pytest.mark.parametrize(
    ("record", "late", "step", "twice"),
    [
        (SendRecord(State.FREE), False, NextStep.SEND, NextStep.SEND),
        (SendRecord(State.FREE), True, OutcomeUnknown, NextStep.SEND),
        (SendRecord(State.MISMATCH), False, InvalidArguments, InvalidArguments),
        (SendRecord(State.BUSY, SENT), False, Deferred, Deferred),
        (SendRecord(State.STALE, SENT), False, OutcomeUnknown, NextStep.SEND),
        (SendRecord(State.LOST), False, OutcomeUnknown, OutcomeUnknown),
    ],
)
async def test_the_record_of_an_email_decides_the_next_step_of_its_run(
    record: SendRecord, *, late: bool, step: Any, twice: Any
) -> None:
    for at_least_once, expected in ((False, step), (True, twice)):
        store = Store(record)
        run = run_of(shared(store=store, at_least_once=at_least_once), late=late)
        if isinstance(expected, NextStep):
            assert await run._look_up() is expected
        else:
            with pytest.raises(expected) as caught:
                await run._look_up()
            is_another = getattr(caught.value, "another_email", False)
            assert is_another is (record.state is State.MISMATCH)
        goes_twice = record.state is State.STALE and at_least_once
        assert store.deleted == [record] * goes_twice
        assert store.looks == (2 if record.request else 1)
    unsendable = run_of(shared(store=Store(record), at_least_once=True), late=True, unsendable="no")
    if step is OutcomeUnknown:
        with pytest.raises(OutcomeUnknown):
            await unsendable._look_up()


async def test_an_email_that_was_sent_has_the_result_of_the_job_that_sent_it() -> None:
    record = SendRecord(State.SENT, result={"id": "1", "key": "re_abc..."})
    assert await run_of(shared(store=Store(record)))._look_up() == Served(
        {"id": "1"}, "re_abc...", 0, 0
    )


@pytest.mark.parametrize("state", [State.BUSY, State.OPEN])
async def test_a_run_waits_for_a_call_of_its_process_and_shares_its_error(state: State) -> None:
    store = Store(SendRecord(state, SENT))
    common = shared(store=store)
    run, error = run_of(common, until_s=None), TransientError("why", 70)
    for end in (None, error):
        common.in_flight.begin("1")
        looks = asyncio.ensure_future(run._look_up())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not looks.done()
        common.in_flight.end("1", end)
        if end is None:
            assert await looks is NextStep.LOOK_AGAIN
        else:
            with pytest.raises(TransientError) as caught:
                await looks
            assert caught.value is not error
            assert caught.value.reason == "why"
    assert store.looks == 2, "each step reads once: the call is known to be in flight"
    common.in_flight.begin("1")
    late = run_of(common, until_s=0.0)
    with pytest.raises(Deferred) as deferred:
        await late._look_up()
    assert deferred.value.code == "same_email"


async def test_an_email_is_in_doubt_while_the_store_does_not_answer() -> None:
    for looks in ([Deferred(5, "gone")], [SendRecord(State.OPEN, SENT), Deferred(5, "gone")]):
        with pytest.raises(Deferred) as caught:
            await run_of(shared(store=Store(*looks)))._look_up()
        assert caught.value.in_doubt


def for_good() -> Deferred:
    deferred = waited(Deferred(5, "every key is disabled", "disabled"))
    deferred.for_good = True
    return deferred


def waited(error: Any) -> Any:
    error.waited_ms = 70
    return error


# How a repeated call ends, and the fate of the email; then its fate if it may be sent twice.
@pytest.mark.parametrize(
    ("end", "step", "twice", "waited_ms"),
    [
        (lambda: SERVED, Served, Served, 70),
        (NothingToSend, NextStep.LOOK_AGAIN, NextStep.LOOK_AGAIN, 0),
        (lambda: waited(Deferred(5, "rpm")), Deferred, Deferred, 70),
        (for_good, Deferred, NextStep.SEND, 70),
        (lambda: waited(TransientError("why")), TransientError, TransientError, 70),
        (lambda: OutcomeUnknown("gone"), OutcomeUnknown, NextStep.SEND, 0),
        (lambda: RequestRejected("no"), OutcomeUnknown, NextStep.SEND, 0),
    ],
)
async def test_a_request_is_repeated_unchanged_with_its_account(
    end: Any, step: Any, twice: Any, waited_ms: int
) -> None:
    record = SendRecord(State.OPEN, SENT)
    for at_least_once, expected in ((False, step), (True, twice)):
        store = Store(record)
        common = shared(end(), store=store, at_least_once=at_least_once)
        run = run_of(common)
        looks = asyncio.ensure_future(run._look_up())
        for _ in range(9):  # until its call is in flight
            await asyncio.sleep(0)
        ended: Any = common.in_flight.find("1")
        assert ended is not None, "other jobs of this process wait for the call"
        await asyncio.wait({looks})
        if isinstance(expected, NextStep):
            assert looks.result() is expected
        elif expected is Served:
            assert looks.result() == Served({"id": "1"}, "k", 0, 0)
        else:
            error: Any = looks.exception()
            assert type(error) is expected
            assert getattr(error, "in_doubt", True)
            if type(end()) is RequestRejected:
                assert str(error).endswith("refuses to repeat it: no")
        assert store.deleted == [record] * (expected is NextStep.SEND)
        [(request, longest_s)] = cast("Any", common.rotation).requests
        assert (request.account, request.exclude, request.emails) == ("team", frozenset(), 0)
        assert (longest_s, run._email.waited_ms) == (None, waited_ms)
        shares = ended.result() is not None
        assert shares is (expected in {Deferred, TransientError})
        assert common.in_flight.find("1") is None


async def test_an_email_of_a_batch_that_is_repeated_has_its_own_part_of_the_answer() -> None:
    emails = tuple(EmailIdentity(NAMES.mail(key), "hash") for key in ("0", "1"))
    record = SendRecord(State.OPEN, SendRequest("team", "batch", "[]", emails))
    answer = Served({"results": [{"id": "a"}, {"id": "b"}]}, "k", 1, 0)
    served = await run_of(shared(answer, store=Store(record)))._look_up()
    assert isinstance(served, Served)
    assert served.value == {"id": "b"}


async def test_an_earlier_call_that_is_still_running_costs_no_retry() -> None:
    for code, kind in ((UNFINISHED, Deferred), ("server_error", TransientError)):
        error = waited(TransientError("why"))
        error.code = code
        with pytest.raises(kind) as caught:
            await run_of(shared(error))._call(REQUEST, cast("Any", None))
        assert caught.value.waited_ms == 70


def take_along(queue: BatchQueue, end: Any, *, calls: tuple[Attempt, ...] = ()) -> Any:
    """End the call of a leader that has taken all waiting emails with it."""

    def ends(attempt: Any) -> Any:
        for email, waiter in queue.in_turn():
            queue.take(email)
            attempt.batch[email] = waiter
        attempt.calls += calls
        attempt.in_doubt = any(each.in_doubt for each in calls)
        return end

    return ends


async def batch_of_two(end: Any, *, calls: tuple[Attempt, ...] = (), **email: Any) -> list[Any]:
    """The next steps of a leader and of its follower; and the leader's run."""
    common = shared()
    runs_ = [run_of(common, key, **email) for key in ("1", "2")]
    queue = BatchQueue()
    common.queues[REQUEST.resource, REQUEST.exclude, REQUEST.bulk] = queue
    cast("Any", common.rotation).ends.append(take_along(queue, end, calls=calls))
    steps = await asyncio.wait_for(
        asyncio.gather(*(run._send() for run in runs_), return_exceptions=True), 10
    )
    assert (common.leaders, common.queues) == (set(), {})
    assert list(common.went_alone) == [False, False]
    return [*steps, runs_[0]]


async def test_a_batch_that_is_refused_goes_out_one_by_one_and_an_email_alone_is_rejected() -> None:
    leader, follower, run = await batch_of_two(RequestRejected("no"))
    assert (leader, follower) == (NextStep.LOOK_AGAIN, NextStep.LOOK_AGAIN)
    assert not run._email.batchable
    common = shared(RequestRejected("no"))
    alone = run_of(common)
    with pytest.raises(RequestRejected):
        await alone._send()
    assert (common.leaders, common.queues) == (set(), {})
    assert alone._email.batchable


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("a bug")])
@pytest.mark.parametrize("in_doubt", [False, True])
async def test_a_follower_of_a_job_that_is_stopped_looks_again_or_is_in_doubt(
    error: BaseException, *, in_doubt: bool
) -> None:
    leader, follower, _ = await batch_of_two(error, calls=(CALL,) if in_doubt else ())
    assert type(leader) is type(error)
    if in_doubt:
        assert (type(follower), follower.in_doubt, follower.own) == (TransientError, True, False)
    else:
        assert follower is NextStep.LOOK_AGAIN


REFUSED = Attempt(1, "re_abc...", "rate_limit")


# Why the call of a leader got no key, its earlier calls, and how long it may wait, in seconds;
# whether both wait for another key in this run.
@pytest.mark.parametrize(
    ("error", "calls", "left_s", "waits"),
    [
        (lambda: Deferred(2_000, "rps"), (REFUSED,), None, True),
        (lambda: Deferred(2_000, "rps"), (REFUSED,), 60.0, True),
        (lambda: Deferred(2_000, "rps"), (REFUSED,), 1.0, False),
        (lambda: Deferred(2_001, "rps"), (REFUSED,), None, False),
        (lambda: Deferred(2_000, "rps"), (), None, False),  # no key was called
        (lambda: Deferred(2_000, "rps"), (CALL,), None, False),
        (lambda: TransientError("why"), (REFUSED,), None, False),
    ],
)
async def test_a_run_waits_for_a_rate_limit_that_opens_within_two_seconds(
    error: Any, calls: tuple[Attempt, ...], left_s: float | None, *, waits: bool
) -> None:
    ends = waited(error())
    until_s = None if left_s is None else asyncio.get_running_loop().time() + left_s
    leader, follower, run = await batch_of_two(ends, calls=calls, until_s=until_s)
    assert run._email.waited_ms == 70
    if waits:
        assert (leader, follower) == (NextStep.WAIT, NextStep.WAIT)
        assert run._deferral is ends
    else:
        assert leader is ends
        assert type(follower) is type(ends)
        assert follower is not ends
        assert leader.in_doubt is follower.in_doubt is (calls == (CALL,))
        assert run._deferral is None


# How the call of a leader without followers ends, and how the next email ends.
@pytest.mark.parametrize(
    ("end", "first", "second"),
    [
        (SERVED, Served, Served),
        (NothingToSend(), NextStep.LOOK_AGAIN, Served),
        (RequestRejected("no"), RequestRejected, Served),
        (asyncio.CancelledError(), asyncio.CancelledError, Served),
        (Deferred(5, "rpm"), Deferred, Deferred),  # there is no key for it either
    ],
)
async def test_the_next_email_leads_however_the_call_of_the_first_ends(
    end: Any, first: Any, second: Any
) -> None:
    common = shared(end, SERVED)
    steps = await asyncio.wait_for(
        asyncio.gather(*(run_of(common, key)._send() for key in "12"), return_exceptions=True), 10
    )
    assert [step if isinstance(step, NextStep) else type(step) for step in steps] == [first, second]
    assert (common.leaders, common.queues, common.in_flight._ends) == (set(), {}, {})


async def test_an_unbatchable_email_goes_alone_and_an_unsendable_one_is_refused() -> None:
    common = shared(SERVED)
    assert await run_of(common, batchable=False)._send() == Served({"id": "1"}, "k", 0, 0)
    assert (list(common.went_alone), common.queues) == ([True], {})
    with pytest.raises(InvalidArguments, match=r"^no sender$"):
        await run_of(common, unsendable="no sender")._send()
    full = run_of(common, until_s=0.0)
    common.queues[REQUEST.resource, REQUEST.exclude, REQUEST.bulk] = BatchQueue(led=True)
    with pytest.raises(Deferred, match="many emails wait"):
        await full._send()


async def test_a_follower_notes_the_calls_of_its_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted: list[Any] = []
    telemetry = SimpleNamespace(note_shared_attempt=lambda *call: noted.append(call))
    monkeypatch.setattr(runs, "telemetry", telemetry)
    begin()
    assert run_of(shared())._follow(Outcome(SERVED, (REFUSED, CALL))) is SERVED
    assert of_this_run() == (REFUSED, CALL)
    assert noted == [("resend", REFUSED), ("resend", CALL)]
