"""An email that several jobs request is sent once, and each job gets its result."""

import asyncio
from typing import Any

import pytest

from tests.integration.emails.email_senders import (
    Senders,
    accepted,
    ids,
    outgoing,
    send,
    send_one,
    until,
)
from worker.errors import Deferred, InvalidArguments, TransientError
from worker.keypool import LeaseRequest


async def test_a_second_copy_gets_the_first_ones_result_without_a_call(senders: Senders) -> None:
    first = await send_one(senders.make(), outgoing(1, key="order-1"))
    second = await send_one(senders.make(), outgoing(1, key="order-1"))
    assert second.value == first.value
    assert (second.key, second.attempts) == (first.key, 0)
    assert len(senders.calls()) == 1
    # A copy without a mark: the message was delivered twice.
    third = await send_one(senders.make(), outgoing(1, key="order-1", known=False))
    assert third.value == first.value
    assert len(senders.calls()) == 1


async def test_an_idempotency_key_with_another_content_is_refused(senders: Senders) -> None:
    sender = senders.make()
    await send_one(sender, outgoing(1, key="order-1"))
    for known in (True, False):
        with pytest.raises(
            InvalidArguments, match="idempotency_key: was used for an email with different content"
        ):
            await send_one(sender, outgoing(2, key="order-1", known=known))
    assert accepted(senders) == (1, 0, 0)


@pytest.mark.parametrize("known", [True, False])
async def test_copies_that_race_in_one_process_or_in_two_send_one_email(
    senders: Senders,
    known: bool,  # noqa: FBT001
) -> None:
    pair = senders.make(), senders.make()
    copies = [outgoing(1, key="order-1", known=known) for _ in range(8)]
    request = LeaseRequest(emails=1)
    outcomes: list[Any] = await asyncio.gather(
        *(pair[n % 2].serve(request, copy) for n, copy in enumerate(copies)), return_exceptions=True
    )
    late = [
        n for n, outcome in enumerate(outcomes) if isinstance(outcome, Deferred)
    ]  # the other process was sending it
    for n in late:
        assert outcomes[n].in_doubt
        outcomes[n] = await pair[n % 2].serve(request, copies[n])
    assert len(set(ids(outcomes))) == 1
    assert accepted(senders) == (1, 0, 0)


async def test_copies_among_a_crowd_do_not_go_with_the_batch(senders: Senders) -> None:
    sender = senders.make()
    sent = await send_one(sender, outgoing(3))
    outcomes = await send(sender, *(outgoing(n, known=False) for n in range(10)), outgoing(5))
    assert outcomes[3].value == sent.value
    assert outcomes[5].value == outcomes[10].value
    assert len(set(ids(outcomes))) == 10
    assert accepted(senders) == (10, 0, 0)


async def test_copies_in_one_process_are_in_doubt_together(senders: Senders) -> None:
    sender = senders.make()
    senders.sandbox.control("fault", service="resend", kind="hang", hang_s=600, count=1)
    request = LeaseRequest(emails=1)
    jobs = [asyncio.create_task(sender.serve(request, outgoing(1, key="order-1")))]
    await until(lambda: accepted(senders)[0] == 1)
    jobs += [
        asyncio.create_task(sender.serve(request, outgoing(1, key="order-1"))) for _ in range(3)
    ]
    await until(lambda: len(joined(sender)) == 3)
    impatient = await send(sender, outgoing(1, key="order-1"), longest_s=0)
    assert isinstance(impatient[0], Deferred)
    jobs[0].cancel()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes[1:]} == {TransientError}
    assert all(outcome.in_doubt for outcome in outcomes if isinstance(outcome, TransientError))
    senders.sandbox.control("clear", service="resend")
    again = await send(sender, *(outgoing(1, key="order-1") for _ in range(4)))
    assert len(set(ids(again))) == 1
    assert accepted(senders) == (1, 0, 0)


def joined(sender: Any) -> list[Any]:
    """Return the callbacks that wait for the end of a call in flight."""
    ends = sender.shared.in_flight._ends.values()
    return [callback for end in ends for callback in end._callbacks or ()]


@pytest.mark.parametrize("key", ["b\u00fcro", "x" * 257, "line\nbreak"])
def test_an_idempotency_key_that_no_header_can_carry_fails_its_own_job_alone(key: str) -> None:
    with pytest.raises(
        InvalidArguments, match=r"^idempotency_key: is required, because the job's id"
    ):
        outgoing(1, key=key)
