"""How many emails a worker takes, depending on the calls that they need."""

import asyncio

import pytest

from worker.emails.batching import BatchQueue
from worker.emails.demand import EmailDemand
from worker.emails.outgoing import OutgoingEmail
from worker.rotation.demand import Demand


@pytest.mark.parametrize(
    ("went_alone", "capacity"),
    [
        ([], 8),
        ([True], 8),
        ([True] * 100, 8),
        ([True, False] * 50, 16),
        ([True] * 10 + [False] * 90, 80),
        ([True] + [False] * 99, 400),
        ([False], 8),
        ([False] * 10, 80),
        ([False] * 100, 400),
    ],
)
def test_a_worker_takes_fewer_emails_the_more_of_them_need_a_call_of_their_own(
    went_alone: list[bool], capacity: int
) -> None:
    assert EmailDemand(Demand({}), {}, went_alone).capacity() == capacity


async def test_followers_count_as_well_as_emails_that_ask_for_a_key() -> None:
    calls, queues = Demand({}), dict[tuple[str, frozenset[str], bool], BatchQueue]()
    demand = EmailDemand(calls, queues, [])
    assert (demand.count(bulk=False), demand.count(bulk=True)) == (0, 0)
    loop = asyncio.get_running_loop()
    for number, (sender, bulk) in enumerate((("a", False), ("b", False), ("a", True))):
        emails = [OutgoingEmail(f"{sender}-{n}", "hash", lambda _: {}) for n in range(2**number)]
        waiters = {email: loop.create_future() for email in emails}
        queues[sender, frozenset(), bulk] = BatchQueue(waiters=waiters)
    assert (demand.count(bulk=False), demand.count(bulk=True)) == (3, 4)
    calls.count = lambda *, bulk: 20 if bulk else 10  # type: ignore[method-assign]
    assert (demand.count(bulk=False), demand.count(bulk=True)) == (13, 24)
    assert (demand.shortest(bulk=False), demand.shortest(bulk=True)) == (13, 24)


def test_emails_block_no_other_jobs_and_wait_as_long_as_their_keys_rest() -> None:
    calls = Demand({})
    calls.resting_s = lambda: 7.0  # type: ignore[method-assign]
    demand = EmailDemand(calls, {}, [])
    assert demand.resting_s() == 7.0
    assert demand.may_block_others() is False
    demand.note_upcoming([((), False)])
    assert demand.on_full is None
    called = list[str]()
    demand.on_full = lambda: called.append("full")
    calls.report_full()
    demand.on_full()
    assert called == ["full", "full"]
