"""Writes a file that shows, without Redis, that a worker runs; `worker.probe` reads it."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from config.errors import SettingsError

_logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0
_STANDSTILL_BEATS: Final = 300
"""Far longer than a worker takes to notice that Redis hangs, which also stops the consumer."""


class Heartbeat:
    """Renews the time of a file each second, and writes into it whether the worker takes jobs.

    The pool's loop renews the file. It stops if the consumer, which has its own thread, has stood
    still for long while it should take jobs, although Redis answers.

    Args:
        path: The file.
        standstill_beats: For how many beats, one a second, the consumer may stand still. A process
            that is frozen as a whole does not count beats.

    Attributes:
        started: Whether the worker has begun to take jobs.
        redis_answers: Whether Redis answered when it was last asked.
    """

    def __init__(self, path: Path, *, standstill_beats: int = _STANDSTILL_BEATS) -> None:
        self._path = path
        self._standstill_beats = standstill_beats
        self._written = ""
        self._failed = False
        self._beats_since_turn = 0
        self._watches = False
        self.started = False
        self.redis_answers = False

    def create(self) -> None:
        """Write the file for the first time.

        Raises:
            SettingsError: The file cannot be written.
        """
        try:
            self._beat()
        except OSError as exc:
            sentence = (
                f"KEYWHEEL_HEARTBEAT_PATH names a file that cannot be written ({exc.strerror}): "
                "name one in a folder that this user may write to."
            )
            raise SettingsError([sentence]) from None

    def note_start(self, **_: Any) -> None:
        """Note that the worker has begun to take jobs; Celery's signal calls this."""
        self.started = True

    def watched(self, consume: Callable[..., Any], timer: Any) -> Callable[..., Any]:
        """Wrap the consumer's loop so that it is watched while it takes jobs.

        The loop is not watched while it connects, waits for a broker that is away, or ends: these
        are not standstills.

        Args:
            consume: The consumer's loop, which returns or raises when the connection is lost.
            timer: The timer whose entries the consumer runs between messages.
        """

        def watched(*arguments: Any) -> Any:
            self._note_turn()
            self._watches = True
            entry = timer.call_repeatedly(_INTERVAL_S, self._note_turn)
            try:
                return consume(*arguments)
            finally:
                self._watches = False
                entry.cancel()

        return watched

    def _note_turn(self) -> None:
        self._beats_since_turn = 0

    async def run(self) -> None:
        """Renew the file until this task is cancelled."""
        while True:
            self.renew()
            await asyncio.sleep(_INTERVAL_S)

    def renew(self) -> None:
        """Renew the file once, unless the consumer stands still."""
        if self._stands_still():
            return
        try:
            self._beat()
        except OSError as exc:
            if not self._failed:
                _logger.warning(
                    "cannot renew the heartbeat's file (%s); probes of this worker fail", exc
                )
            self._failed = True
        else:
            self._failed = False

    def _stands_still(self) -> bool:
        if not (self._watches and self.redis_answers):
            self._beats_since_turn = 0
            return False
        self._beats_since_turn += 1
        if self._beats_since_turn == self._standstill_beats + 1:
            _logger.error("the consumer stands still; probes of this worker fail until it moves")
        return self._beats_since_turn > self._standstill_beats

    def _beat(self) -> None:
        text = "ready\n" if self.started and self.redis_answers else "not ready\n"
        if text == self._written and self._path.exists():
            os.utime(self._path)
        else:
            self._path.write_text(text)
            self._written = text
