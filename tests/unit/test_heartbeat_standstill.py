"""When a heartbeat is renewed: the consumer turns, hangs, or waits for its broker."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.heartbeat import Heartbeat
from worker.hooks import health


class Turns:
    """The consumer's timer, without time: the test runs its only entry."""

    def __init__(self) -> None:
        self.canceled = False

    def call_repeatedly(self, _: float, turn: Callable[..., None], *__: Any) -> "Turns":
        self.turn = turn
        return self

    def cancel(self) -> None:
        self.canceled = True


def test_the_file_is_not_renewed_while_the_consumer_hangs_although_connected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, turns = tmp_path / "heartbeat", Turns()
    heartbeat = Heartbeat(file, standstill_beats=3)
    heartbeat.redis_answers = True

    def renewed(beats: int = 1) -> list[bool]:
        are_renewed = []
        for _ in range(beats):
            file.touch()
            os.utime(file, (0, 0))
            heartbeat.renew()
            are_renewed.append(file.stat().st_mtime > 0)
        return are_renewed

    def consume(word: str) -> None:
        assert renewed(3) == [True] * 3
        turns.turn()
        assert renewed(5) == [True] * 3 + [False] * 2
        turns.turn()
        assert renewed() == [True]
        heartbeat.redis_answers = False
        assert all(renewed(9))  # a Redis that hangs may delay it
        heartbeat.redis_answers = True
        raise ConnectionError(word)

    assert all(renewed(9))  # it has not begun
    for _ in range(2):
        with pytest.raises(ConnectionError, match="lost"):
            heartbeat.watched(consume, turns)("lost")
        assert turns.canceled
        assert all(renewed(9))  # it connects again, however long that takes
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == ["the consumer stands still; probes of this worker fail until it moves"] * 2


@pytest.mark.parametrize(
    ("file", "broker_url", "is_watched"),
    [
        ("heartbeat", "redis://pool", True),
        ("heartbeat", "amqp://elsewhere", False),  # it may hang while the pool's Redis answers
        ("", "redis://pool", False),
    ],
)
def test_a_worker_watches_its_consumer_if_a_heartbeat_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    file: str,
    broker_url: str,
    *,
    is_watched: bool,
) -> None:
    settings = SimpleNamespace(
        heartbeat_path=str(tmp_path / file) if file else "",
        broker_url=broker_url,
        pool_url="redis://pool",
        status_interval_s=5.0,
    )
    started, steps, entry = list[Any](), list[Any](), Turns()
    monkeypatch.setattr(health, "get_settings", lambda: settings)
    monkeypatch.setattr(health.signals.worker_ready, "connect", lambda *_, **__: None)
    monkeypatch.setattr(health.lifespan, "on_startup", started.append)

    def consume() -> str:
        steps.append(parent.timer.canceled)
        return "ended"

    parent: Any = SimpleNamespace(timer=entry, consumer=SimpleNamespace(loop=consume))
    health_step = health.PoolHealth(parent)
    health_step.start(parent)
    assert (parent.consumer.loop is not consume) is is_watched
    assert parent.consumer.loop() == "ended"
    assert steps == [False]
    assert len(started) == (3 if file else 2), "the heartbeat, the watch of the pool, and the check"
    entry.canceled = False
    health_step.stop(parent)
    assert entry.canceled
    entry.canceled = False
    health_step.stop(parent)
    assert not entry.canceled
