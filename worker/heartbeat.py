"""A file that shows, without Redis, that a worker's event loop runs; `worker.probe` reads it."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Final

from config.errors import SettingsError

_logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 1.0


class Heartbeat:
    """Renews the time of a file each second, and writes into it whether the worker takes jobs.

    Args:
        path: The file.

    Attributes:
        started: Whether the worker has begun to take jobs.
        redis_answers: Whether Redis answered when it was last asked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""
        self._failed = False
        self.started = False
        self.redis_answers = False

    def create(self) -> None:
        """Write the file for the first time.

        Raises:
            SettingsError: It cannot be written.
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

    async def run(self) -> None:
        """Renew the file until this task is cancelled."""
        while True:
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
            await asyncio.sleep(_INTERVAL_S)

    def _beat(self) -> None:
        text = "ready\n" if self.started and self.redis_answers else "not ready\n"
        if text == self._written and self._path.exists():
            os.utime(self._path)
        else:
            self._path.write_text(text)
            self._written = text
