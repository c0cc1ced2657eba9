"""Pushes how a job ended to the URL that it brought: a signed POST, as Standard Webhooks has it.

The end becomes a job of its own, of the task `tasks.notify.post`, before the message of the job
that ended is acknowledged. That job posts it, for a day if need be.
"""

from worker.notifications.announcing import (
    announce,
    announces,
    end_of_failure,
    is_announced,
)
from worker.notifications.sender import Gone, NotDelivered, NotificationSender

__all__ = [
    "Gone",
    "NotDelivered",
    "NotificationSender",
    "announce",
    "announces",
    "end_of_failure",
    "is_announced",
]
