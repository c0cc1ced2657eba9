"""The idempotency store: keeps each request to Resend in Redis until its outcome is known."""

from worker.emails.idempotency.record import RecordNames, SendRecord, State
from worker.emails.idempotency.store import IdempotencyStore

__all__ = ["IdempotencyStore", "RecordNames", "SendRecord", "State"]
