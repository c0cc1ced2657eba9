"""Decides how long a channel leaves a new message to other channels before it looks itself."""

import random
from typing import Final

_FEW_WORKERS: Final = 8
"""The most workers that may look for a message at once."""
_CROWD_S: Final = 0.002
"""With more workers, each waits for a random time: up to this, times the number of workers."""
_LONGEST_CROWD_S: Final = 2.0
_FIRST_S: Final = 0.01
_LONGEST_S: Final = 0.1


class LookBackoff:
    """Backs off from looks for messages that other channels take.

    The server reports a message to each channel that waits, and one channel gets it. A look in vain
    costs a worker as much as a fifth of a job. So the channel that took the last message looks at
    once, and a channel that looked in vain leaves the next message to the others for a pause. The
    pause doubles with each look in vain, up to a tenth of a second. After it, the channel looks
    once for all messages that came meanwhile. If one is still there, the others are busy or gone,
    and this channel looks at once from then on.

    Attributes:
        until_s: Until when this channel leaves messages to the others, on the monotonic clock.
    """

    def __init__(self) -> None:
        self.until_s = 0.0
        self._pause_s = 0.0

    def note_look(self, found: int) -> None:
        """Note how many messages a look found after the server had reported one."""
        self._pause_s = 0.0 if found else min(max(_FIRST_S, 2 * self._pause_s), _LONGEST_S)

    def begin(self, *, workers: int, now_s: float) -> float:
        """Begin the pause in which a new message is left to the other channels.

        Args:
            workers: The number of workers. If hundreds looked at once, all but one would look in
                vain. With random pauses, the first worker looks after some 2 ms.
            now_s: The time, on the monotonic clock.

        Returns:
            The length of the pause, in seconds.
        """
        pause_s = self._pause_s
        if workers > _FEW_WORKERS:
            crowd_s = random.random() * min(workers * _CROWD_S, _LONGEST_CROWD_S)  # noqa: S311 - spreads a crowd
            pause_s = max(pause_s, crowd_s)
        self.until_s = now_s + pause_s
        return pause_s
