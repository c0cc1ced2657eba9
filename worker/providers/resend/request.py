"""One call to Resend: what is sent, and what is kept to send it again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

_BATCH_PREFIX = "batch-"
_MAX_IDEMPOTENCY_KEY = 256


@dataclass(frozen=True, slots=True)
class EmailIdentity:
    """What distinguishes one email from every other.

    Attributes:
        record: The name of its record in the idempotency store.
        content_hash: A hash of what the job asked for. The same idempotency key must not come with
            another one.
    """

    record: str
    content_hash: str


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One call to Resend whose bytes are settled: a single email or a batch, new or repeated.

    Attributes:
        account: The account that sends it.
        idempotency_key: 1 to 256 visible ASCII characters. Every attempt uses the same one.
        body: The exact JSON text that is sent.
        emails: Its emails, in the order of the body.
        divisible: Its emails may go in smaller calls as well, since none of them was sent yet. A
            quota that has no room for all of them may have room for some.

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
            idempotency_key: The email's own.
            account: The account that sends it.
            emails: The email, for the idempotency store.

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
            requests: The emails, as each would go alone.
            number: Unique to this batch. Its idempotency key is made of it.
        """
        body = "[" + ",".join(request.body for request in requests) + "]"
        emails = tuple(email for request in requests for email in request.emails)
        return cls(requests[0].account, _BATCH_PREFIX + number, body, emails, divisible=True)

    @property
    def is_batch(self) -> bool:
        """Whether it goes to the batch endpoint."""
        return self.body.startswith("[")

    @property
    def number(self) -> str:
        """The number that is unique to a batch."""
        return self.idempotency_key.removeprefix(_BATCH_PREFIX)

    @property
    def payload(self) -> Any:
        """The body as JSON types."""
        return json.loads(self.body)


def is_idempotency_key(key: str) -> bool:
    """Whether Resend takes it, and a header can carry it."""
    return (
        0 < len(key) <= _MAX_IDEMPOTENCY_KEY
        and key.isascii()
        and key.isprintable()
        and key == key.strip()
    )


def recipients_in(payload: Mapping[str, Any]) -> int:
    """Count the addresses that an email goes to. Each counts against the quotas."""
    named = (payload.get(name) or () for name in ("to", "cc", "bcc"))
    return sum(1 if isinstance(addresses, str) else len(addresses) for addresses in named)


def _plain(value: object) -> object:
    # Validated models hand over tuples and read-only mappings.
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
