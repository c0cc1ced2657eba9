"""Defines the record of an email in the idempotency store, and its names in Redis."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.providers import SendRequest


class State(StrEnum):
    """The state of an email in the store."""

    FREE = "free"
    """It was not sent yet, or Resend certainly did not accept it."""
    MISMATCH = "mismatch"
    """Its idempotency key was used for an email with different content."""
    SENT = "sent"
    """Resend accepted it."""
    BUSY = "busy"
    """Another job is sending it now."""
    OPEN = "open"
    """It may have been accepted. Only exactly the same request may be sent again."""
    STALE = "stale"
    """It may have been accepted so long ago that Resend may have forgotten the idempotency key."""
    LOST = "lost"
    """It may have been accepted in a batch whose record is gone."""
    UNREADABLE = "unreadable"
    """It may have been accepted, but another program has changed its record."""


@dataclass(frozen=True, slots=True)
class SendRecord:
    """The store's record of an email.

    Attributes:
        state: The state of the email.
        request: With `OPEN`, `BUSY` and `STALE`, the request that was sent.
        since_ms: When the request was claimed, on Redis' clock, in milliseconds since 1970.
        result: With `SENT`, Resend's answer: `id`, and `key` (the key's label).
        left_ms: With `BUSY`, how long the other job's call may still take, in milliseconds.
        lost_by: With `OPEN`, the broker message of the job that was sending the email, if that job
            lost its message during the call.
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

    All names share one hash tag, so that one script may change a batch and its emails together.

    Args:
        namespace: The prefix of all names. It separates installations that share a Redis.
    """

    namespace: str

    def mail(self, idempotency_key: str) -> str:
        """Return the name of an email's record, a hash.

        The idempotency key may be an order number or an address, so the name contains its SHA-256.
        """
        digest = hashlib.sha256(idempotency_key.encode()).hexdigest()[:_HASH_CHARS]
        return f"{{{self.namespace}:outbox}}:mail:{digest}"

    def batch(self, number: str) -> str:
        """Return the name of the record of a batch whose outcome is open, a hash."""
        return f"{{{self.namespace}:outbox}}:batch:{number}"

    def of(self, request: SendRequest) -> list[str]:
        """Return the names of all records of a request, the request's own first."""
        emails = [email.record for email in request.emails]
        return [self.batch(request.number), *emails] if request.is_batch else emails
