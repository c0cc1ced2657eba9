"""How many emails a worker takes, by how many calls they need."""

import pytest

from worker.emails.demand import EmailDemand
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
