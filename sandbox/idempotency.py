"""Remembers the idempotency keys of a team.

For 24 hours, a team keeps a fingerprint of the request that came with a key, and its answer.
"""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

LIFETIME_S = 86_400.0


def digest(path: str, body: Any) -> bytes:
    """Return a fingerprint of a request that ignores the order of fields and white space."""
    return hashlib.sha256(f"{path}\n{json.dumps(body, sort_keys=True)}".encode()).digest()


@dataclass(slots=True)
class Remembered:
    """One idempotency key.

    Attributes:
        digest: The request's fingerprint.
        expires_s: When the key is forgotten.
        answer: The body of the answer; None while the request is in progress.
    """

    digest: bytes
    expires_s: float
    answer: bytes | None = None


class IdempotencyKeys:
    """The idempotency keys of one team, oldest first."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str, now_s: float) -> Remembered | None:
        """Return what is remembered of a key, or None if it is unknown or has expired."""
        while self._known:
            oldest = next(iter(self._known))
            if self._known[oldest].expires_s > now_s:
                break
            del self._known[oldest]
        return self._known.get(name)

    def begin(self, name: str, request: bytes, now_s: float) -> Remembered:
        """Remember a request that is in progress."""
        remembered = self._known[name] = Remembered(request, now_s + LIFETIME_S)
        return remembered
