"""The mailroom: every email is accepted once.

Those that wait for the rate limit go out together.
"""

from worker.mailroom.letter import Letter
from worker.mailroom.mailroom import Mailroom

__all__ = ["Letter", "Mailroom"]
