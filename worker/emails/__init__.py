"""The mailroom: every email is accepted once.

Those that wait for the rate limit go out together.
"""

from worker.emails.outgoing import Letter
from worker.emails.sender import Mailroom

__all__ = ["Letter", "Mailroom"]
