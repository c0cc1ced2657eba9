"""The idempotency keys of the emails that a run of a job sends."""

import uuid
from collections import Counter
from typing import Final


class EmailKeys:
    """Makes the keys of one run; each run of the job makes the same keys.

    Emails to different recipients are numbered apart, so that tasks may send them at once, in any
    order.

    Args:
        job: The id of the job; empty: there is none, so no other run sends these emails.
    """

    def __init__(self, job: str) -> None:
        self._prefix: Final = job or uuid.uuid4().hex
        self._sent: Final[Counter[str]] = Counter()
        self._failed: Final[dict[tuple[str, str], str]] = {}

    def make(self, recipients: str, content_hash: str) -> str:
        """Make the key of an email.

        Args:
            recipients: Stands for the recipients.
            content_hash: Stands for the content.
        """
        if (key := self._failed.pop((recipients, content_hash), None)) is not None:
            return key
        self._sent[recipients] += 1
        return f"{self._prefix}-{recipients}-{self._sent[recipients]}"

    def note_failed(self, recipients: str, content_hash: str, key: str) -> None:
        """Give an email its key again if it is sent again: it may have been accepted."""
        self._failed[recipients, content_hash] = key
