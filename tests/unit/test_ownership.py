"""A run asks the broker for its message only after its process has stood still."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery.exceptions import Ignore
from redis.exceptions import ConnectionError as LostError

from worker.jobs import ownership as ownership_module
from worker.jobs.ownership import Ownership


@pytest.mark.parametrize(
    ("answer", "lease_s", "is_lost"),
    [
        (True, 60, False),
        (False, 60, True),
        (LostError("gone"), 60, False),  # while the broker is down, no other worker gets a job
        (False, 0, False),  # jobs stay with their worker
    ],
)
async def test_a_message_is_lost_if_the_broker_says_that_no_worker_has_it(
    answer: Any, lease_s: float, *, is_lost: bool
) -> None:
    broker = Mock(hexists=AsyncMock(side_effect=[answer]))
    assert await Ownership(broker, lease_s=lease_s).is_lost("tag") is is_lost
    assert broker.hexists.await_args_list == [call("unacked", "tag")] * (lease_s > 0)
    assert not await Ownership(None, lease_s=60).is_lost("tag")


async def test_a_run_that_another_worker_has_ends_here_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SimpleNamespace(s=10.0)
    monkeypatch.setattr(ownership_module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    jobs = Ownership(Mock(hexists=AsyncMock(return_value=False)), lease_s=60)
    jobs.begin(SimpleNamespace(id="job", properties={"delivery_tag": "tag"}))
    await jobs.end_if_lost()
    clock.s += 31
    with pytest.raises(Ignore):
        await jobs.end_if_lost()
    assert caplog.messages == [
        (
            "job runs in another worker, because this one was frozen for too long; "
            "its run here is dropped"
        )
    ]


# When a run began, ten seconds after the last look at the clock; when it makes a call; whether it
# asks first.
@pytest.mark.parametrize(
    ("began_s", "calls_s", "is_asked"),
    [
        (20.0, 50.0, False),
        (20.0, 50.1, True),  # half of a lease without a look at the clock: the process stood still
        (40.1, 41.0, True),  # it began when that was noticed
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
