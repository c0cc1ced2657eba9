"""What the rest of Celery sees of a job: its name and state, not what it says."""

from typing import Any

from celery.worker.request import Request

HIDDEN = "<hidden>"


class PrivateRequest(Request):
    """A request whose arguments do not show in events, logs, `inspect` or Flower.

    Producers put a repr of the arguments into the message's headers, prompts and mail bodies included; here it is
    replaced before anything reads it. Set `show_content` on the task class to leave it, for debugging.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        if not getattr(self.task, "show_content", False):
            self._argsrepr = self._kwargsrepr = HIDDEN
            self._request_dict["argsrepr"] = self._request_dict["kwargsrepr"] = HIDDEN

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Celery's signature
        """What `inspect active` and Flower's worker page show."""
        found: dict[str, Any] = super().info(safe=safe)
        if not getattr(self.task, "show_content", False):
            found |= {"args": HIDDEN, "kwargs": HIDDEN}
        return found
