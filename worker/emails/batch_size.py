"""How many emails go out together from an account whose quota is nearly used up."""

import time
from collections.abc import Callable

MOST_IN_BATCH = 100

_DAY_S = 86_400


class BatchSizes:
    """Halves the batches of an account whose quota has no room for them, down to single emails.

    Resend does not say how much of a quota is left. A batch that is refused may therefore hold some
    emails that would have fitted. A single email that is refused closes the account.

    Args:
        now_s: The time in seconds since 1970.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._limits: dict[str, tuple[int, int]] = {}

    def limit(self, account: str) -> int:
        """How many emails may go out together now."""
        day, limit = self._limits.get(account, (0, MOST_IN_BATCH))
        return limit if day == self._today() else MOST_IN_BATCH  # quotas restart at midnight, UTC

    def is_searching(self, account: str) -> bool:
        """Whether it is being found out how many emails the quota has room for."""
        return self.limit(account) < MOST_IN_BATCH

    def refused(self, account: str, *, size: int) -> None:
        """Learn from a batch that the quota had no room for.

        Args:
            account: Whose quota it was.
            size: How many emails the batch held. 1 closes the account, and ends the halving.
        """
        if size > 1:
            self._limits[account] = self._today(), min(self.limit(account), size // 2)
        else:
            self._limits.pop(account, None)

    def _today(self) -> int:
        return int(self._now_s() // _DAY_S)
