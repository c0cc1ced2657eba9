"""One email to send, and one call to Resend whose bytes are settled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Any

_MAX_IDEMPOTENCY_KEY = 256


@dataclass(frozen=True, slots=True)
class Email:
    """One email to send.

    Attributes:
        payload: The validated body of `POST /emails`, with the provider's field names.
        idempotency_key: 1 to 256 visible ASCII characters; every attempt for the same email must
            use the same one.

    Raises:
        ValueError: The idempotency key is empty, too long, or cannot stand in a header.
    """

    payload: Mapping[str, Any] = field(repr=False)
    idempotency_key: str

    def __post_init__(self) -> None:
        _check_key(self.idempotency_key)

    @property
    def resource(self) -> str:
        """What a key may not have access to: the domain of the from address, in lower case.

        It is empty where there is none.
        """
        _, address = parseaddr(str(self.payload.get("from", "")))
        return address.rpartition("@")[2].lower() if "@" in address else ""

    @property
    def recipients(self) -> int:
        """How many addresses the email goes to; each counts against the quotas."""
        return recipients_in(self.payload)

    def body(self) -> bytes:
        """The exact bytes of the request.

        Equal payloads give equal bytes, whatever the order of their fields.

        Raises:
            TypeError, ValueError: The payload is not JSON.
        """
        return json.dumps(
            self.payload, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
        ).encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """One call to Resend whose bytes are settled.

    A single email or a batch, at its first attempt or a later one.

    Attributes:
        text: The exact JSON text of the body.
        idempotency_key: As for `Email`.
        size: How many emails a batch holds; 0 for a single email.
        splits: Its emails may go in smaller calls as well: a quota that does not hold them all may
            hold some.

    Raises:
        ValueError: The idempotency key is empty, too long, or cannot stand in a header.
    """

    text: str = field(repr=False)
    idempotency_key: str
    size: int = 0
    splits: bool = False

    def __post_init__(self) -> None:
        _check_key(self.idempotency_key)

    @property
    def payload(self) -> Any:
        """The parsed text."""
        return json.loads(self.text)

    def body(self) -> bytes:
        """The exact bytes of the request."""
        return self.text.encode()


def is_idempotency_key(key: str) -> bool:
    """Whether Resend takes it, and a header can carry it."""
    return (
        0 < len(key) <= _MAX_IDEMPOTENCY_KEY
        and key.isascii()
        and key.isprintable()
        and key == key.strip()
    )


def _check_key(key: str) -> None:
    if not is_idempotency_key(key):
        raise ValueError("idempotency_key: 1 to 256 visible ASCII characters")


def recipients_in(payload: Mapping[str, Any]) -> int:
    """Count the addresses that an email goes to."""
    named = (payload.get(name) or () for name in ("to", "cc", "bcc"))
    return sum(1 if isinstance(addresses, str) else len(addresses) for addresses in named)


def _plain(value: object) -> object:
    # Validated models hand over tuples and read-only mappings.
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
