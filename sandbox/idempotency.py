"""What a team remembers of its idempotency keys.

For 24 hours, the body that came and the answer that went.
"""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

LIFETIME_S = 86_400.0


def digest(path: str, body: Any) -> bytes:
    """A fingerprint of a request that ignores the order of its fields and its white space."""
    return hashlib.sha256(f"{path}\n{json.dumps(body, sort_keys=True)}".encode()).digest()


@dataclass(slots=True)
class Remembered:
    """One idempotency key.

    Attributes:
        digest: The request's fingerprint.
        expires_s: When it is forgotten.
        answer: The body of the answer; None while the request is under way.
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
        """What is known of a key, unless it expired."""
        while self._known:
            oldest = next(iter(self._known))
            if self._known[oldest].expires_s > now_s:
                break
            del self._known[oldest]
        return self._known.get(name)

    def begin(self, name: str, request: bytes, now_s: float) -> Remembered:
        """Remember a request that is under way."""
        remembered = self._known[name] = Remembered(request, now_s + LIFETIME_S)
        return remembered
