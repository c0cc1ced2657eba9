"""How long a channel leaves a new message to the other channels before it looks for it."""

import random
from typing import Final

_FEW_WORKERS: Final = 8
"""The most workers that may look for a message at once."""
_CROWD_S: Final = 0.002
"""Where there are more, each waits for up to this time for each worker there is."""
_LONGEST_CROWD_S: Final = 2.0
_FIRST_S: Final = 0.01
_LONGEST_S: Final = 0.1


class LookBackoff:
    """Backs off from looks for messages that other channels take.

    The server reports a message to each channel that waits, and one gets it: a look in vain costs a
    worker as much as a fifth of a job. So the channel that took the last message looks at once, and
    one that looked in vain leaves the next message to the others for a moment. That moment doubles
    with each look in vain, up to a tenth of a second. Then the channel looks once for all messages
    of meanwhile; if one is there, the others are busy or gone, and it looks at once from then on.

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
        """Leave a message that the server has reported to the others.

        Args:
            workers: How many workers there are. Of hundreds all but one would look in vain at once;
                like this the first one of them looks after some 2 ms.
            now_s: The time, on the monotonic clock.

        Returns:
            For how long, in seconds.
        """
        pause_s = self._pause_s
        if workers > _FEW_WORKERS:
            crowd_s = random.random() * min(workers * _CROWD_S, _LONGEST_CROWD_S)  # noqa: S311 - spreads a crowd
            pause_s = max(pause_s, crowd_s)
        self.until_s = now_s + pause_s
        return pause_s
