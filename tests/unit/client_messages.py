"""Messages of the Python client, read."""

import base64
import json
from typing import Any


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A message, and the keyword arguments in it."""
    message: dict[str, Any] = json.loads(text)
    args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
    assert (args, embed) == ([], {})
    return message, kwargs
