"""How many emails go out together with an account whose quota runs out."""

import time
from collections.abc import Callable

MOST_IN_BATCH = 100

_DAY_S = 86_400


class BatchSizes:
    """Halves the batches of an account that its quota does not hold, down to the email that closes the account.

    Nobody tells how much of a quota is left, so a batch that is refused may still hold some that
    would have fitted.

    Args:
        now_s: Tells the time in seconds since 1970.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._most: dict[str, tuple[int, int]] = {}

    def most(self, account: str) -> int:
        """How many emails may go out together now."""
        day, most = self._most.get(account, (0, MOST_IN_BATCH))
        return most if day == self._today() else MOST_IN_BATCH  # quotas begin anew at midnight, UTC

    def refused(self, account: str, *, size: int) -> None:
        """Learn that a quota did not hold so many emails.

        A single one closes the account, and all begins anew.
        """
        if size > 1:
            self._most[account] = self._today(), min(self.most(account), size // 2)
        else:
            self._most.pop(account, None)

    def _today(self) -> int:
        return int(self._now_s() // _DAY_S)
