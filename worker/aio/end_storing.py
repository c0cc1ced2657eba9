"""Stores the ends of many jobs together, from a thread that may block."""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from worker.aio.lua_source import source
from worker.aio.pipelining import STORES, Command, store_command
from worker.aio.result_encoding import EncodingBackend

End = tuple[str, BaseException, Any]
"""A job's id, its error, and Celery's context of its request, or None."""

_REPLACE: Final = source("worker.aio", "replace")


class EndStoringBackend(EncodingBackend):
    """A backend that stores the ends of many jobs in few round trips."""

    def store_ends(self, ends: Sequence[End], state: str, *, over_ends: bool = True) -> None:
        """Store and publish the ends of jobs, a hundred in two round trips. It blocks the thread.

        Args:
            ends: The jobs that have ended.
            state: The state to store for all of them.
            over_ends: Whether to replace an end that is already stored, unless it is a success.

        Raises:
            redis.RedisError: The server rejected a command, or was unreachable for longer than the
                retry policy allows.
        """
        for at in range(0, len(ends), STORES):
            entries = [
                self._entry(task_id, self.encode_result(exc, state), state, None, context)
                for task_id, exc, context in ends[at : at + STORES]
            ]
            self.ensure(self._store_entries, (entries, state, over_ends))

    def _store_entries(
        self,
        entries: list[tuple[Any, Any, int]],
        state: str,
        over_ends: bool,  # noqa: FBT001 - `ensure` passes no keyword arguments
    ) -> None:
        known = self.client.execute_command(*store_command(entries))
        pending = [
            (entries[number], stored)
            for number, stored in zip(known[::2], known[1::2], strict=True)
        ]
        while pending := [
            (entry, stored)
            for entry, stored in pending
            if stored and self._is_replaceable(_value(stored), state, over_ends=over_ends)
        ]:
            with self.client.pipeline(transaction=False) as pipe:
                for entry, stored in pending:
                    pipe.execute_command(*replacement(stored, *entry))
                replies = pipe.execute()
            pending = [(entry, reply) for (entry, _), reply in zip(pending, replies, strict=True)]


def replacement(stored: Any, key: Any, value: Any, expires_s: int) -> Command:
    """Make the command that replaces a value, unless the value has changed since it was read.

    Args:
        stored: The value that was read.
        key: The value's key.
        value: The new value.
        expires_s: The new value's expiry in seconds; 0 for never.
    """
    read = hashlib.sha1(
        stored if isinstance(stored, bytes) else stored.encode(), usedforsecurity=False
    )
    return ("EVAL", _REPLACE, 1, key, read.hexdigest(), value, expires_s)


def _value(reply: Any) -> Any:
    """Return one reply of a list, or raise it if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply
