"""Matches the replies of a connection to its commands; both have the same order."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

Note = Callable[[Any], None]
"""Takes a reply: a number, or the error of the server."""

_NEAR_S: Final = 0.002


class Replies:
    """The outstanding replies of a taking connection. Not thread-safe.

    Attributes:
        is_near: Whether the latest reply came at once. Waiting for the next one then costs less
            than a turn of the hub.
    """

    def __init__(self) -> None:
        self.is_near = True
        self._due: deque[tuple[Note | None, float]] = deque()
        self._connection: Any = None

    def __len__(self) -> int:
        return len(self._due)

    def expect(self, connection: Any, note: Note | None) -> None:
        """Expect one more reply.

        Args:
            connection: The connection by which the command was sent.
            note: Called with the reply; None for the reply to the request for messages.
        """
        self._connection = connection
        self._due.append((note, time.monotonic()))

    def take(self) -> Note | None:
        """Return the function for the next reply; None if it answers the request for messages."""
        if not self._due:
            return None
        note, asked_s = self._due.popleft()
        if note is not None:
            self.is_near = time.monotonic() - asked_s < _NEAR_S
        return note

    def forget(self, connection: Any) -> bool:
        """Expect no more replies of a lost connection; return whether one was outstanding."""
        if self._connection is not connection:
            return False
        was_due = bool(self._due)
        self._connection = None
        self._due.clear()
        return was_due
