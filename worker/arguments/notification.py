"""Models of a notification's URL, and of the arguments of the task that posts it."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from config.current import get_settings
from config.notify_hosts import host_of, notify_hosts
from worker.arguments.base import Arguments, JsonObject, Text


def _listed(url: str) -> str:
    host_of(url, notify_hosts(get_settings().notify_hosts))
    return url


NotifyUrl = Annotated[Text, AfterValidator(_listed)]
"""A URL whose host the settings list."""


class NotificationArguments(Arguments):
    """The arguments of `tasks.notify.post`; the workers themselves send its jobs."""

    url: Text
    message_id: Annotated[str, Field(pattern=r"^msg_[0-9a-f]{32}$")]
    event: JsonObject

    def as_call(self) -> tuple[str, str, dict[str, Any]]:
        """Return the arguments of `NotificationSender.post`."""
        return self.url, self.message_id, self.event
