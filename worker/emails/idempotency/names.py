"""The names of the store's records in Redis."""

import hashlib
from dataclasses import dataclass

_HASH_CHARS = 40


@dataclass(frozen=True, slots=True)
class Names:
    """Names the records.

    All share one hash tag, so that a script may touch a batch and its emails together.

    Args:
        namespace: What stands before every name; keeps installations apart that share a Redis.
    """

    namespace: str

    def mail(self, idempotency_key: str) -> str:
        """Hash: what is known of one email.

        The key may be an order number or an address, so its hash stands here.
        """
        digest = hashlib.sha256(idempotency_key.encode()).hexdigest()[:_HASH_CHARS]
        return f"{{{self.namespace}:outbox}}:mail:{digest}"

    def batch(self, number: str) -> str:
        """Hash: a batch under way."""
        return f"{{{self.namespace}:outbox}}:batch:{number}"
