"""The email sender: every email is accepted once.

Those that wait for the rate limit go out together.
"""

from worker.emails.outgoing import OutgoingEmail
from worker.emails.sender import EmailSender

__all__ = ["EmailSender", "OutgoingEmail"]
