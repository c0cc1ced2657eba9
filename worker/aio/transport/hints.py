"""Which lists of a channel's queues may hold something.

By the server's hints, and by what was found in them.

A hint of the server (`CLIENT TRACKING`) names a key that was changed since this connection read it.
So once all lists were found empty, only those that a hint names are looked into.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Place = tuple[str, int]
"""A list: its queue and its priority."""


class ListHints:
    """What is known of the lists. Not thread-safe.

    Attributes:
        is_dry: All lists were empty when last looked at, and no hint came since.
        look_at_s: When all lists are looked into at the latest, on the monotonic clock.
        asked: Where the question on its way looks; None: everywhere.
        left_out: The queues that were passed over when all others were last looked into.
    """

    def __init__(self) -> None:
        self.is_dry = False
        self.look_at_s = 0.0
        self.asked: set[Place] | None = None
        self.left_out: set[str] = set()
        self._changed: set[Place] | None = None
        """Where something may be; None: anywhere."""
        self._place_of: Mapping[bytes, Place] = {}

    def watch(self, place_of: Mapping[bytes, Place]) -> None:
        """Take notice of these lists, given by their keys, and of no others.

        Nothing is known of them yet.
        """
        self._place_of = place_of
        self.look_everywhere()

    def look_everywhere(self) -> None:
        """Look into all lists next time, since no hint tells of each of them."""
        self.is_dry, self._changed, self.left_out = False, None, set()

    def pause(self, until_s: float) -> None:
        """Look into no list until an instant, and into all of them then."""
        self.is_dry, self._changed, self.look_at_s = True, None, until_s

    def worth_asking(self, queues: list[str], now_s: float) -> list[str]:
        """The queues whose bounds matter: those that may hold something."""
        if self._changed is None or now_s >= self.look_at_s or not (self._changed or self.left_out):
            return queues
        return [
            queue
            for queue in queues
            if queue in self.left_out or any(queue == its for its, _ in self._changed)
        ]

    def choose(
        self,
        queues: list[str],
        *,
        every: Sequence[str],
        steps: Sequence[int],
        now_s: float,
        sweep_s: float,
    ) -> tuple[list[str], Sequence[int]]:
        """Say which lists to ask of now, and note that. `asked` is None where it is all of them.

        Args:
            queues: The queues of which something may be taken.
            every: All queues.
            steps: All priorities.
            now_s: The time, on the monotonic clock.
            sweep_s: How long the lists may go without a look after this one, in seconds.

        Returns:
            The queues, none where nothing changed in one of these, and the priorities.
        """
        if self._must_look_everywhere(queues, now_s):
            self.asked, self.left_out = None, set(every).difference(queues)
            self.look_at_s = now_s + sweep_s
            return queues, steps
        changed = self._changed or set()
        found = [queue for queue in queues if any(queue == its_queue for its_queue, _ in changed)]
        rows = [step for step in steps if any(step == its_step for _, its_step in changed)]
        if found:
            self.asked = {(queue, step) for queue in found for step in rows}
        return found, rows

    def _must_look_everywhere(self, queues: list[str], now_s: float) -> bool:
        """Whether to look into all lists of these queues.

        Always, unless each other one is known to be empty.
        """
        if self._changed is None or now_s >= self.look_at_s or not self.left_out.isdisjoint(queues):
            return True
        return not self._changed and not self.left_out

    def note_change(self, hint: Any) -> None:
        """Remember what the server tells.

        That some keys were changed since they were last looked into.
        """
        self.is_dry = False
        keys = hint[1] if isinstance(hint, list) and len(hint) == 2 else None  # noqa: PLR2004 - its kind, and the keys
        places = [self._place_of.get(key) for key in keys or [b""]]
        known = {place for place in places if place is not None}
        if self._changed is not None:
            self._changed = self._changed | known if len(known) == len(places) else None

    def note_answer(self, *, all_taken: bool) -> None:
        """Remember what an answer says of the lists that it was asked of.

        Hints before it are older than it.
        """
        if self.asked is None:
            self._changed = set() if all_taken else None
        elif self._changed is not None:
            self._changed = self._changed - self.asked if all_taken else self._changed | self.asked
        self.is_dry = (
            all_taken and not self._changed and self._changed is not None and not self.left_out
        )
