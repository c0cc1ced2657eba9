"""An application's endpoint for notifications, which verifies their signatures."""

import json
import queue
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

from standardwebhooks import Webhook

SECRETS = ("whsec_" + "a" * 32, "whsec_" + "b" * 32)


@dataclass
class Receiver:
    """The endpoint. It answers with the next of its statuses, or with 204 after the last one."""

    statuses: list[int] = field(default_factory=list)
    posts: "queue.Queue[dict[str, Any]]" = field(default_factory=queue.Queue)
    refused: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/done?for=ann"

    def take(self) -> dict[str, Any]:
        return self.posts.get(timeout=30)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()
                receiver.refused += status != 204
                if status == 204:
                    receiver.posts.put({"path": self.path, "headers": self.headers, "body": body})

            def do_GET(self) -> None:
                receiver.posts.put({"path": self.path})

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def verified(post: dict[str, Any]) -> dict[str, Any]:
    """Return the event of a post, after verifying its signatures, one for each secret."""
    headers = {name.lower(): value for name, value in post["headers"].items()}
    for secret in SECRETS:
        Webhook(secret).verify(post["body"], headers)
    assert headers["content-type"] == "application/json"
    event: dict[str, Any] = json.loads(post["body"])
    age = datetime.now(UTC) - datetime.fromisoformat(event.pop("timestamp"))
    assert abs(age) < timedelta(minutes=1)
    return event
