"""One queue of jobs that wait for the same keys: what a refusal of the pool teaches it."""

import pytest

from worker.keypool import HORIZON_MS, LeaseRequest, NoLease, NoLeaseReason
from worker.rotation.wait_queue import WaitQueue


@pytest.mark.parametrize(
    ("no_lease", "a_call_that_ends_may_make_room"),
    [
        (NoLease(NoLeaseReason.WAIT, first_in_ms=HORIZON_MS), False),
        (NoLease(NoLeaseReason.WAIT, first_in_ms=HORIZON_MS * 3 // 2), False),
        (NoLease(NoLeaseReason.WAIT, first_in_ms=HORIZON_MS * 2), True),
        (NoLease(NoLeaseReason.BUSY), True),  # limits are not known yet
    ],
)
def test_a_queue_asks_again_when_a_call_ends_only_where_that_may_help(
    no_lease: NoLease,
    a_call_that_ends_may_make_room: bool,  # noqa: FBT001
) -> None:
    queue = WaitQueue("m", bulk=False, resources=("m",))
    queue.note_refusal(LeaseRequest(), no_lease)
    assert queue.until_call_ends is a_call_that_ends_may_make_room


def test_after_a_refusal_only_smaller_requests_may_fit() -> None:
    queue = WaitQueue("m", bulk=False, resources=("m",))
    refused = NoLease(NoLeaseReason.WAIT, reason="tpm")
    assert queue.note_refusal(LeaseRequest(tokens=100), refused)
    assert queue.note_refusal(LeaseRequest(tokens=200), refused)
    assert [queue.may_fit(LeaseRequest(tokens=tokens)) for tokens in (99, 100)] == [True, False]
    assert queue.reason == "tpm"
    assert not WaitQueue("m", bulk=False, resources=()).note_refusal(LeaseRequest(), refused)
