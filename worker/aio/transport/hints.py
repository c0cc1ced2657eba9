"""Tracks which lists of a channel's queues may hold messages.

A hint of the server (`CLIENT TRACKING`) names a key that has changed since this connection read it.
So once all lists were empty, only the lists that a hint names need to be read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

QueueStep = tuple[str, int]
"""A list: its queue and its priority."""


class ListHints:
    """The lists that may hold messages. Not thread-safe.

    Attributes:
        all_empty: Whether all lists were empty when they were last read, and no hint came since.
        look_at_s: When all lists are read at the latest, on the monotonic clock.
        requested: The lists that the outstanding request reads; None for all.
        left_out: The queues that were left out when all others were last read.
    """

    def __init__(self) -> None:
        self.all_empty = False
        self.look_at_s = 0.0
        self.requested: set[QueueStep] | None = None
        self.left_out: set[str] = set()
        self._changed: set[QueueStep] | None = None
        """The lists that may hold messages; None if any of them may."""
        self._step_of: Mapping[bytes, QueueStep] = {}

    def watch(self, step_of: Mapping[bytes, QueueStep]) -> None:
        """Watch these lists only, given by their keys. Any of them may hold messages."""
        self._step_of = step_of
        self.look_everywhere()

    def look_everywhere(self) -> None:
        """Read all lists next time, because hints may be missing."""
        self.all_empty, self._changed, self.left_out = False, None, set()

    def pause(self, until_s: float) -> None:
        """Read no list until an instant, and all lists then."""
        self.all_empty, self._changed, self.look_at_s = True, None, until_s

    def worth_asking(self, queues: list[str], now_s: float) -> list[str]:
        """Return the queues that may hold messages."""
        if not self._name_lists(now_s):
            return queues
        worth = self.left_out | self._changed_queues()
        return [queue for queue in queues if queue in worth]

    def _name_lists(self, now_s: float) -> bool:
        """Return whether the hints name all lists that may hold messages."""
        may_be_anywhere = self._changed is None or now_s >= self.look_at_s
        return not may_be_anywhere and bool(self._changed or self.left_out)

    def _changed_queues(self) -> set[str]:
        return {queue for queue, _ in self._changed or ()}

    def _changed_steps(self) -> set[int]:
        return {step for _, step in self._changed or ()}

    def choose(
        self,
        queues: list[str],
        *,
        every: Sequence[str],
        steps: Sequence[int],
        now_s: float,
        sweep_s: float,
    ) -> tuple[list[str], Sequence[int]]:
        """Choose the lists to read now, and note them in `requested`.

        Args:
            queues: The queues that messages may be taken from.
            every: All queues.
            steps: All priorities.
            now_s: The time, on the monotonic clock.
            sweep_s: The time until all lists are read again at the latest, in seconds.

        Returns:
            The queues, empty if none has changed, and the priorities.
        """
        if not self._name_lists(now_s) or not self.left_out.isdisjoint(queues):
            self.requested, self.left_out = None, set(every).difference(queues)
            self.look_at_s = now_s + sweep_s
            return queues, steps
        changed, changed_steps = self._changed_queues(), self._changed_steps()
        chosen = [queue for queue in queues if queue in changed]
        rows = [step for step in steps if step in changed_steps]
        if chosen:
            self.requested = {(queue, step) for queue in chosen for step in rows}
        return chosen, rows

    def note_change(self, hint: Any) -> None:
        """Note a hint: the keys that have changed since this connection read them."""
        self.all_empty = False
        keys = hint[1] if isinstance(hint, list) and len(hint) == 2 else None  # noqa: PLR2004 - its kind, and the keys
        lists = [self._step_of.get(key) for key in keys or [b""]]
        known = {name for name in lists if name is not None}
        if self._changed is not None:
            self._changed = self._changed | known if len(known) == len(lists) else None

    def note_answer(self, *, all_taken: bool) -> None:
        """Note whether the requested lists are empty after a reply.

        For these lists, the reply overrides all hints that came before it, because it is newer.
        """
        if self.requested is None:
            self._changed = set() if all_taken else None
        elif self._changed is not None:
            self._changed = (
                self._changed - self.requested if all_taken else self._changed | self.requested
            )
        self.all_empty = (
            all_taken and not self._changed and self._changed is not None and not self.left_out
        )
