"""Records in the audit trail what people change through Flower's own pages and API."""

import logging
import re
from typing import Any, Final, NamedTuple

from tornado.escape import url_unescape
from tornado.web import RequestHandler

from worker.dashboard.errors import ApiError, RedisUnreachable
from worker.logs.redaction import redactor

_logger = logging.getLogger(__name__)

_ADDRESS = re.compile(
    r"/api/(?P<kind>worker|task)/(?:pool/|queue/)?(?P<event>[a-z-]+)/(?P<name>.+)$"
)
_ENQUEUES: Final = {"apply", "async-apply", "send-task"}  # not recorded: programs enqueue often
_SHOWN: Final = (
    "workername", "queue", "n", "min", "max", "ratelimit", "soft", "hard", "terminate", "signal",
)  # fmt: skip
_FIRST_ERROR: Final = 400
_LONGEST: Final = 200


class StockChange(NamedTuple):
    """A change that somebody made through Flower's own pages or API.

    Attributes:
        event: The action, as Flower's address names it, such as `revoke` or `shutdown`.
        scope: `job`, `task` or `worker`.
        name: The job's id, or the name of the task or worker.
        reason: The action's arguments, such as `queue=ai`.
        by: The author of the change.
    """

    event: str
    scope: str
    name: str
    reason: str
    by: str


def change_in(handler: RequestHandler) -> StockChange | None:
    """Return the change that a request made through Flower's own API; None if it made none."""
    request = handler.request
    found = _ADDRESS.search(request.path)
    if (
        found is None
        or request.method != "POST"
        or handler.get_status() >= _FIRST_ERROR
        or found["event"] in _ENQUEUES
    ):
        return None
    scope = "job" if found["event"] in {"revoke", "abort"} else found["kind"]
    given = [(name, _last(request.arguments.get(name, []))) for name in _SHOWN]
    reason = ", ".join(f"{name}={value}" for name, value in given if value)
    return StockChange(
        found["event"],
        scope,
        _plain(url_unescape(found["name"], plus=False)),
        _plain(reason),
        f"flower {_visitor(handler)}",
    )


def _last(values: list[bytes]) -> str:
    # `get_argument` raises if a value is not UTF-8, and then the change would not be recorded.
    return values[-1].decode("utf-8", "replace").strip() if values else ""


def _visitor(handler: RequestHandler) -> str:
    application: Any = handler.application
    try:
        return str(application.visitor(handler.request).name)
    except ApiError:  # FLOWER_UNAUTHENTICATED_API is on
        return "without login"


def _plain(text: str) -> str:
    return redactor.redact("".join(char for char in text if char.isprintable()))[:_LONGEST]


async def write_down(poller: Any, change: StockChange) -> None:
    """Add the change to the audit trail."""
    try:
        await poller.with_actions(
            lambda log: log.add(
                change.event,
                scope=change.scope,
                name=change.name,
                by=change.by,
                reason=change.reason,
            )
        )
    except RedisUnreachable as exc:
        words = "cannot record %s in the audit trail (%s); the change itself is made"
        _logger.warning(words, change.event, exc)
