"""Reads a job's stream to its end, for both clients."""

import time
from collections.abc import Iterator
from typing import Any, Final

from keywheel_client.checks import after_of, timeout_s_of
from keywheel_client.errors import ResultTimeout
from keywheel_client.events import StreamEvent, event_of, events_of_result, rows_of
from keywheel_client.status import Status

_FIRST_SILENCE_S: Final = 0.2
_LONGEST_SILENCE_S: Final = 1.5
"""After this time without a record, the reader checks the result. Less than a socket's time-out."""


class StreamReader:
    """Decides what to read next from a stream, and makes events of the records.

    Args:
        job: The job's id.
        after: The id of the last record that was read.
        timeout_s: The longest time without a record, in seconds; None: no limit.

    Attributes:
        after: The id after which to read.
        block_ms: How long to wait for records, in milliseconds; None: not at all.
        is_done: Whether the answer is complete.
        is_silent: Whether no record came, so that `note` needs the job's status.
    """

    def __init__(self, job: str, after: str, timeout_s: float | None) -> None:
        self.after = after_of(after)
        self.block_ms: int | None = None
        self.is_done = self.is_silent = False
        self._job = job
        self._timeout_s = timeout_s_of(timeout_s)
        self._heard_s = time.monotonic()
        self._silence_s = _FIRST_SILENCE_S
        self._ended: Status | None = None

    def events(self, reply: Any) -> Iterator[StreamEvent]:
        """Yield the events of the records that were read.

        Args:
            reply: XREAD's reply.

        Raises:
            JobFailed: The job failed.
        """
        rows = rows_of(reply)
        if not rows and self._ended is not None:  # the stream has no end, or is gone
            yield from events_of_result(self._job, self._ended)
            self.is_done = True
        for row in rows:
            self.after, self._heard_s = row[0], time.monotonic()
            event = event_of(self._job, row)
            if event is None:  # another program, which shares the Redis, wrote it
                continue
            self.is_done = event.type == "end"
            yield event
        self.is_silent = not (rows or self.is_done)

    def note(self, status: Status) -> None:
        """Take the job's status while its stream has no new records.

        Raises:
            ResultTimeout: The stream had no new record for `timeout_s`.
        """
        self.block_ms = None
        if status.is_ended:
            self._ended = status  # read once more: the stream's end is written before the result
            return
        left_s = self._silence_s
        self._silence_s = min(2 * left_s, _LONGEST_SILENCE_S)
        if self._timeout_s is not None:
            left_s = min(left_s, self._heard_s + self._timeout_s - time.monotonic())
        if left_s <= 0:
            raise ResultTimeout(self._job, status, self._timeout_s or 0)
        self.block_ms = max(1, round(1000 * left_s))
