"""The outbox.

What was handed to Resend for each email, kept in Redis until its outcome is known.
"""

from worker.emails.idempotency.names import Names
from worker.emails.idempotency.record import Envelope, Found, Member, State
from worker.emails.idempotency.store import Outbox, batch_of

__all__ = ["Envelope", "Found", "Member", "Names", "Outbox", "State", "batch_of"]
