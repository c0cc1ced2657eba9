"""The thread that renews the leases of messages: its log lines, its messages, its sleep."""

import logging
import threading
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from worker.aio.transport import leases
from worker.aio.transport.leases import LeaseKeeper


class Holding:
    """Holds one message."""

    def held_tags(self) -> Iterable[str]:
        return ["tag"]


def test_leases_that_cannot_be_renewed_are_logged_once_for_as_long_as_that_lasts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases, "_RETRY_S", 0.001)
    tries: list[str] = []
    ended = threading.Event()
    plan = (["away"] * 3 + ["bug"] * 2 + ["renewed"]) * 2

    def execute(*_: Any) -> None:
        tries.append(plan[len(tries)])
        if tries[-1] == "away":
            raise redis.ConnectionError("gone")
        if tries[-1] == "bug":
            raise ZeroDivisionError
        if len(tries) == len(plan):
            keeper.leave(holding)
            ended.set()

    keeper = LeaseKeeper(
        lambda: SimpleNamespace(execute_command=execute),  # type: ignore[arg-type, return-value]
        lease_s=0.01,
        keys=("unacked", "index", "leases", "pulse"),
    )
    holding = Holding()
    with caplog.at_level(logging.INFO, "worker.aio"):
        keeper.join(holding)
        thread = keeper._thread
        assert ended.wait(10)
        if thread is not None:
            thread.join(10)
    logged = [message.partition(" (")[0] for message in caplog.messages]
    assert (
        logged
        == [
            "cannot renew the leases of this worker's messages",
            *["cannot renew the leases of this worker's messages; trying again in 0.001 s"] * 2,
            "the leases of this worker's messages are renewed again",
        ]
        * 2
    )


def test_a_message_of_a_closed_channel_counts_until_it_is_acknowledged_or_released() -> None:
    keeper = LeaseKeeper(
        lambda: None,  # type: ignore[arg-type, return-value]
        lease_s=60,
        keys=("unacked", "index", "leases", "pulse"),
    )
    keeper.detach(["ended", "let go of", "at work"])
    assert keeper.detached == 3
    keeper.acknowledge(["ended"])
    assert keeper.detached == 2
    keeper.release(["let go of"])
    assert keeper.detached == 1


class _Wake(threading.Event):
    """Notes whether the thread waits for a set event, which would make it spin."""

    def __init__(self) -> None:
        super().__init__()
        self.found_set: list[bool] = []
        self.waits_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.found_set.append(self.is_set())
        self.waits_s.append(timeout or 0.0)
        return True


def test_the_thread_sleeps_until_the_next_renewal_and_sends_acknowledgements_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, done = SimpleNamespace(s=1000.0), list[str]()
    keeper = LeaseKeeper(
        lambda: None,  # type: ignore[arg-type, return-value]
        lease_s=60,
        keys=("unacked", "index", "leases", "pulse"),
    )
    keeper._wake = wake = _Wake()
    wake.set()
    holding = Holding()
    keeper._holders.add(holding)

    def renew() -> None:
        done.append("renewed")
        keeper._renew_at_s = now.s + 15
        if len(wake.waits_s) == 3:
            keeper._holders.clear()

    def send() -> None:
        done.append("sent")
        keeper._acked.clear()

    def wait(timeout: float | None = None) -> bool:
        _Wake.wait(wake, timeout)
        if len(wake.waits_s) == 1:  # an acknowledgement comes
            now.s += 5
            keeper._acked.append("tag")
        else:
            now.s += wake.waits_s[-1]
        return True

    monkeypatch.setattr(wake, "wait", wait)
    monkeypatch.setattr(keeper, "_renew", renew)
    monkeypatch.setattr(keeper, "_send", send)
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: now.s))
    keeper._run()
    assert done == ["renewed", "sent", "renewed", "renewed"]
    assert wake.waits_s == [15, 10, 15, 15]
    assert wake.found_set == [False] * 4
    assert keeper._thread is None
