"""Describes one call to Resend completely, so that it can be repeated exactly."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

_BATCH_PREFIX = "batch-"
_MAX_IDEMPOTENCY_KEY = 256


@dataclass(frozen=True, slots=True)
class EmailIdentity:
    """The identity of one email.

    Attributes:
        record: The name of the email's record in the idempotency store.
        content_hash: A hash of the email that the job asked for. An idempotency key must not be
            used with two different hashes.
    """

    record: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One call to Resend, for a single email or a batch; its bytes never change.

    Attributes:
        account: The account that makes the call.
        idempotency_key: 1 to 256 visible ASCII characters. Every attempt uses the same key.
        body: The exact JSON text that is sent.
        emails: The emails, in the order of the body.
        divisible: Whether the emails may also be sent in smaller calls, because none of them was
            sent yet. A quota that has no room for all of them may have room for some.

    Raises:
        ValueError: The idempotency key is empty, too long, or cannot stand in a header.
    """

    account: str
    idempotency_key: str
    body: str = field(repr=False)
    emails: tuple[EmailIdentity, ...] = ()
    divisible: bool = False

    def __post_init__(self) -> None:
        if not is_idempotency_key(self.idempotency_key):
            raise ValueError("idempotency_key: 1 to 256 visible ASCII characters")

    @classmethod
    def single(
        cls,
        payload: Mapping[str, Any],
        idempotency_key: str,
        *,
        account: str = "",
        emails: tuple[EmailIdentity, ...] = (),
    ) -> Self:
        """Make the request for one email.

        Equal payloads give equal bytes, whatever the order of their fields.

        Args:
            payload: The validated body of `POST /emails`, with the provider's field names.
            idempotency_key: The idempotency key of the email.
            account: The account that sends the email.
            emails: The identity of the email, for the idempotency store.

        Raises:
            TypeError, ValueError: The payload is not JSON, or the idempotency key is not valid.
        """
        body = json.dumps(
            payload, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
        )
        return cls(account, idempotency_key, body, emails)

    @classmethod
    def batch(cls, requests: Sequence[Self], *, number: str) -> Self:
        """Put the requests of several single emails of one account into one batch.

        Args:
            requests: The request for each email.
            number: The unique identifier of this batch, from which its idempotency key is made.
        """
        body = "[" + ",".join(request.body for request in requests) + "]"
        emails = tuple(email for request in requests for email in request.emails)
        return cls(requests[0].account, _BATCH_PREFIX + number, body, emails, divisible=True)

    @property
    def is_batch(self) -> bool:
        """Whether the call goes to the batch endpoint."""
        return self.body.startswith("[")

    @property
    def number(self) -> str:
        """The unique identifier of a batch."""
        return self.idempotency_key.removeprefix(_BATCH_PREFIX)

    @property
    def payload(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


def is_idempotency_key(key: str) -> bool:
    """Whether Resend accepts the key as an idempotency key, and a header can carry it."""
    return (
        0 < len(key) <= _MAX_IDEMPOTENCY_KEY
        and key.isascii()
        and key.isprintable()
        and key == key.strip()
    )


def recipients_in(payload: Mapping[str, Any]) -> int:
    """Count the recipients of an email. Each counts against the quotas."""
    named = (payload.get(name) or () for name in ("to", "cc", "bcc"))
    return sum(1 if isinstance(addresses, str) else len(addresses) for addresses in named)


def _plain(value: object) -> object:
    # Validated models contain tuples and read-only mappings.
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
