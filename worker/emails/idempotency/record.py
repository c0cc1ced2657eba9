"""What the idempotency store knows of an email, and how it names that in Redis."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.providers import SendRequest


class State(StrEnum):
    """What is known of an email."""

    FREE = "free"
    """Nothing: it was not sent yet, or Resend surely refused it."""
    MISMATCH = "mismatch"
    """Its idempotency key was used for an email with another content."""
    SENT = "sent"
    """Resend accepted it."""
    BUSY = "busy"
    """Another job is sending it now."""
    OPEN = "open"
    """It may have been accepted. Only the same request may be sent again."""
    STALE = "stale"
    """It may have been accepted so long ago that Resend may have forgotten the idempotency key."""
    LOST = "lost"
    """It may have been accepted in a batch whose record is gone."""
    UNREADABLE = "unreadable"
    """It may have been accepted: another program has changed its record."""


@dataclass(frozen=True, slots=True)
class SendRecord:
    """What the store knows of an email.

    Attributes:
        state: The kind of answer.
        request: What was sent, with `State.OPEN`, `BUSY` and `STALE`.
        since_ms: When the request was claimed, on Redis' clock, in milliseconds since 1970.
        result: What Resend answered, with `State.SENT`: `id`, and `key` (the key's label).
        left_ms: How long the other job's call may still take, with `State.BUSY`, in milliseconds.
        lost_by: With `State.OPEN`, the message of the job whose call was under way as it lost it.
    """

    state: State
    request: SendRequest | None = None
    since_ms: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    left_ms: int = 0
    lost_by: str = ""


_HASH_CHARS = 40


@dataclass(frozen=True, slots=True)
class RecordNames:
    """Names the records.

    All of them share one hash tag, so that one script may change a batch and its emails together.

    Args:
        namespace: What every name begins with. Keeps installations apart that share a Redis.
    """

    namespace: str

    def mail(self, idempotency_key: str) -> str:
        """Hash: what is known of one email.

        The idempotency key may be an order number or an address, so the name holds its SHA-256.
        """
        digest = hashlib.sha256(idempotency_key.encode()).hexdigest()[:_HASH_CHARS]
        return f"{{{self.namespace}:outbox}}:mail:{digest}"

    def batch(self, number: str) -> str:
        """Hash: a batch whose outcome is open."""
        return f"{{{self.namespace}:outbox}}:batch:{number}"

    def of(self, request: SendRequest) -> list[str]:
        """The names of all records of a request, its own first."""
        emails = [email.record for email in request.emails]
        return [self.batch(request.number), *emails] if request.is_batch else emails
