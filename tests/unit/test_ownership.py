"""A run asks the broker for its message only after a standstill of its process."""

from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock, call

import pytest

from worker.jobs import ownership as ownership_module
from worker.jobs.ownership import Ownership


# When a run began, ten seconds after the last look at the clock; when it makes a call; whether it
# asks first.
@pytest.mark.parametrize(
    ("began_s", "calls_s", "is_asked"),
    [
        (20.0, 50.0, False),
        (20.0, 50.1, True),  # half of a lease without a look at the clock: it stood still
        (40.1, 41.0, True),  # began as that was seen
        (30.0, 40.0, False),
    ],
)
async def test_a_run_that_a_standstill_may_have_cost_its_message_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, began_s: float, calls_s: float, *, is_asked: bool
) -> None:
    clock = SimpleNamespace(s=10.0)
    monkeypatch.setattr(ownership_module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    broker = Mock(hexists=AsyncMock(return_value=True))
    jobs = Ownership(broker, lease_s=60)
    jobs._check_clock()
    clock.s = began_s
    jobs.begin(SimpleNamespace(id="job", properties={"delivery_tag": "tag"}))
    assert jobs.message == "tag"
    clock.s = calls_s
    await jobs.end_if_lost()
    assert broker.hexists.await_args_list == [call("unacked", "tag")] * is_asked
    jobs.begin(SimpleNamespace(id="job", properties=None))
    assert jobs.message == ""
