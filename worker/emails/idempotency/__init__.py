"""The store.

What was handed to Resend for each email, kept in Redis until its outcome is known.
"""

from worker.emails.idempotency.names import Names
from worker.emails.idempotency.record import EmailIdentity, SendRecord, SendRequest, State
from worker.emails.idempotency.store import IdempotencyStore, batch_of

__all__ = [
    "EmailIdentity",
    "IdempotencyStore",
    "Names",
    "SendRecord",
    "SendRequest",
    "State",
    "batch_of",
]
