"""What the store keeps, and what it says of an email."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class EmailIdentity:
    """One email of a request.

    Attributes:
        name: The name of its record.
        content: A hash of what the job asked for; the same idempotency key must not come with
            another one.
    """

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One call to Resend, exactly as it was made and is made again: a single email, or a batch.

    Attributes:
        name: The name of its record; a single email's own.
        account: The account that it belongs to.
        key: The idempotency key of the call.
        body: The exact JSON text that is sent.
        members: Its emails, in the order of the body.
        since_ms: When it was sealed, on Redis' clock, in milliseconds; 0 where it was not yet.
    """

    name: str
    account: str
    key: str
    body: str = field(repr=False)
    members: tuple[EmailIdentity, ...]
    since_ms: int = 0

    @property
    def is_batch(self) -> bool:
        """Whether it went to the batch endpoint."""
        return self.members[0].name != self.name

    @property
    def records(self) -> list[str]:
        """The names of all its records, its own first."""
        others = [member.name for member in self.members] if self.is_batch else []
        return [self.name, *others]


class State(StrEnum):
    """What is known of an email."""

    FREE = "free"
    """Nothing: it was not sent yet, or was surely refused."""
    MISMATCH = "mismatch"
    """Its idempotency key was used with another content."""
    SENT = "sent"
    """It was accepted."""
    BUSY = "busy"
    """Another job is sending it now."""
    OPEN = "open"
    """It may have been accepted: only its request may be sent, as it is."""
    STALE = "stale"
    """It may have been accepted so long ago that Resend may have forgotten the idempotency key."""
    LOST = "lost"
    """It may have been accepted in a batch whose record is gone."""


@dataclass(frozen=True, slots=True)
class SendRecord:
    """What the store says of an email.

    Attributes:
        state: The kind of answer.
        request: What was sent, with `State.OPEN`, `BUSY` and `STALE`.
        result: What Resend answered, with `State.SENT`: `id`, and `key` (the key's label).
        left_ms: How long the other job may still take, with `State.BUSY`, in milliseconds.
    """

    state: State
    request: SendRequest | None = None
    result: dict[str, Any] = field(default_factory=dict)
    left_ms: int = 0
