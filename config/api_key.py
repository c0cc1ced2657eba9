"""Represents an API key. Its id and its label are safe to show; its secret is not."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pydantic import SecretStr

_ID_LENGTH: Final = 12
_MIN_ID_PART: Final = 4
_LABEL_TAIL: Final = 6
_LONGEST_PREFIX: Final = 8


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of a service.

    Attributes:
        service: The service's name.
        id: The first 12 hexadecimal digits of the secret's SHA-256; safe to store and to show.
        label: The masked form (`gsk_abc123...`), safe to show.
        secret: The key itself; it is sent to the provider and to no other program.
        variable: The variable that contains the key.
        account: The account that owns the limits, if the settings name it.
        sender: The from address of the key's team, if the settings name one.
    """

    service: str
    id: str
    label: str
    secret: SecretStr = field(repr=False)
    variable: str
    account: str | None = None
    sender: str | None = None


def key_id(secret: str) -> str:
    """Return the fingerprint of a secret: the first 12 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()[:_ID_LENGTH]


def masked_key(secret: str) -> str:
    """Return a label: a secret's prefix and six more characters, but at most a third of it."""
    prefix = secret.find("_") + 1
    if prefix > _LONGEST_PREFIX:
        prefix = 0
    return secret[: min(prefix + _LABEL_TAIL, len(secret) // 3)] + "..."


def keys_named(text: str, keys: Iterable[ApiKey]) -> list[ApiKey]:
    """Find the keys that a person may mean.

    Args:
        text: A key's id or the beginning of its id, its label, or its variable's name. The secret
            itself is not accepted, because it would stay in the shell's history.
        keys: The keys to choose from.
    """
    known = list(keys)
    name = text.strip()
    exact = [key for key in known if name in {key.id, key.label, key.variable}]
    if exact or len(name) < _MIN_ID_PART:
        return exact
    label = name.removesuffix("…").rstrip(".")
    return [
        key for key in known if key.id.startswith(name.lower()) or key.label.rstrip(".") == label
    ]


def make_key(
    service: str,
    *,
    secret: str,
    variable: str,
    account: str | None = None,
    sender: str | None = None,
) -> ApiKey:
    """Build a key with its id and label from its secret."""
    return ApiKey(
        service, key_id(secret), masked_key(secret), SecretStr(secret), variable, account, sender
    )
