"""How many of the waiting jobs the keys could serve now with more workers."""

import pytest

from worker.dashboard.servable import servable_jobs
from worker.keypool import BlockView, KeyView, PoolView
from worker.keypool.snapshot import BucketView

COUNTS = dict.fromkeys(
    ("in_flight", "calls", "accepted", "refused", "faults", "rejected", "tokens", "used_ms"), 0
)


def key(name: str, *buckets: BucketView, left_ms: int | None = 0) -> KeyView:
    blocks = (
        () if left_ms == 0 else (BlockView("account", "", "cooling", "rate_limit", 0, left_ms),)
    )
    state = "cooling" if blocks else "ready"
    return KeyView(name, name, name, name, state, blocks, buckets=buckets, **COUNTS)


def minute(remaining: float, *, model: str = "m") -> BucketView:
    return BucketView(model, "rpm", 60, remaining, 60_000)  # one a second


SECOND = BucketView("", "rps", 2, 2, 1_000)
DAY = BucketView("", "epd", 0, 250, 86_400_000, 43_200_000)


# The keys, how many jobs wait, how many fit into one call, and how many could be served.
@pytest.mark.parametrize(
    ("keys", "waiting", "jobs_a_call", "servable"),
    [
        ((), 50, 1, 0),  # no key
        ((key("a"),), 50, 1, 50),  # no limit is known
        ((key("a", minute(10)),), 500, 1, 40),  # ten now, and one each second
        ((key("a", minute(10)), key("b", minute(20))), 500, 1, 90),  # of two accounts
        ((key("a", minute(10)),), 7, 1, 7),  # all waiting jobs
        ((key("a", minute(10), left_ms=3_600_000),), 500, 1, 0),  # it rests for an hour
        ((key("a", minute(0), minute(30, model="n")),), 500, 1, 60),  # another model has more room
        ((key("a", SECOND),), 10_000, 100, 6_200),  # emails in batches
        ((key("a", SECOND, DAY),), 10_000, 100, 250),  # the quota of the day is nearly used up
    ],
)
def test_jobs_for_which_no_key_has_room_ask_for_no_worker(
    keys: tuple[KeyView, ...], waiting: int, jobs_a_call: int, servable: int
) -> None:
    view = PoolView("groq", 0, keys)
    assert servable_jobs(view, waiting, jobs_a_call=jobs_a_call) == servable
