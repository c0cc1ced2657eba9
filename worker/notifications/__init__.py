"""Posts how a job ended to the URL that the job names, signed as Standard Webhooks defines it.

The notification becomes a job of its own, of the task `tasks.notify.post`, before the message of
the job that ended is acknowledged. The new job tries to post it for up to a day.
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
