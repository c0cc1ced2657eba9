"""What a heartbeat makes of a consumer that turns, that hangs, and that waits for its broker."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.heartbeat import Heartbeat


class Turns:
    """The consumer's timer, without time: its one entry is run by hand."""

    def __init__(self) -> None:
        self.canceled = False

    def call_repeatedly(self, _: float, turn: Callable[[], None]) -> "Turns":
        self.turn = turn
        return self

    def cancel(self) -> None:
        self.canceled = True


def test_the_file_is_not_renewed_while_the_consumer_hangs_beside_its_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, turns = tmp_path / "heartbeat", Turns()
    heartbeat = Heartbeat(file, standstill_beats=3)
    heartbeat.redis_answers = True

    def renewed(beats: int = 1) -> list[bool]:
        found = []
        for _ in range(beats):
            file.touch()
            os.utime(file, (0, 0))
            heartbeat.renew()
            found.append(file.stat().st_mtime > 0)
        return found

    def consume(word: str) -> None:
        assert renewed(3) == [True] * 3
        turns.turn()
        assert renewed(5) == [True] * 3 + [False] * 2
        turns.turn()
        assert renewed() == [True]
        heartbeat.redis_answers = False
        assert all(renewed(9))  # a Redis that hangs may hold it up
        heartbeat.redis_answers = True
        raise ConnectionError(word)

    assert all(renewed(9))  # it has not begun
    for _ in range(2):
        with pytest.raises(ConnectionError, match="lost"):
            heartbeat.watched(consume, turns)("lost")
        assert turns.canceled
        assert all(renewed(9))  # it connects again, however long that takes
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == ["the consumer stands still; probes of this worker fail until it moves"] * 2
