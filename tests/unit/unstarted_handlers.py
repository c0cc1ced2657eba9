"""An endpoint of the dashboard without a server."""

from types import SimpleNamespace
from typing import Any


def handler_of(kind: type[Any], values: dict[str, str], **of_poller: Any) -> Any:
    """An endpoint with a request and a poller; `sent` has its response."""
    made = kind.__new__(kind)
    made.application = SimpleNamespace(poller=SimpleNamespace(**of_poller))
    made.query_values = lambda: values
    made.sent = []
    made.send_json = made.sent.append
    return made
