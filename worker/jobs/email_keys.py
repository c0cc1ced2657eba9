"""Makes the idempotency keys of the emails that a run of a job sends."""

import uuid
from collections import Counter
from typing import Final


class EmailKeys:
    """Makes the keys of one run; each run of the job makes the same keys.

    The emails of each set of recipients are numbered separately, so that tasks may send them at
    once, in any order.

    Args:
        job: The id of the job; empty: there is no job, so no other run sends these emails.
    """

    def __init__(self, job: str) -> None:
        self._prefix: Final = job or uuid.uuid4().hex
        self._sent: Final[Counter[str]] = Counter()
        self._failed: Final[dict[tuple[str, str], str]] = {}

    def make(self, recipients: str, content_hash: str) -> str:
        """Make the key of an email.

        Args:
            recipients: Identifies the recipients.
            content_hash: Identifies the content.
        """
        if (key := self._failed.pop((recipients, content_hash), None)) is not None:
            return key
        self._sent[recipients] += 1
        return f"{self._prefix}-{recipients}-{self._sent[recipients]}"

    def note_failed(self, recipients: str, content_hash: str, key: str) -> None:
        """Reuse the key if this email is sent again, because it may have been accepted."""
        self._failed[recipients, content_hash] = key
