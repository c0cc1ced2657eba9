"""The names of the records of the idempotency store in Redis."""

import hashlib
from dataclasses import dataclass

from worker.providers import SendRequest

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
