"""The outbox.

What was handed to Resend for each email, kept in Redis until its outcome is known.
"""

from worker.outbox.envelope import Envelope, Found, Member, State
from worker.outbox.names import Names
from worker.outbox.outbox import Outbox, batch_of

__all__ = ["Envelope", "Found", "Member", "Names", "Outbox", "State", "batch_of"]
