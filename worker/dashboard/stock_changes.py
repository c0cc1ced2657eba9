"""Writes down in the audit trail what people change by Flower's own pages and API."""

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
_ENQUEUES: Final = {"apply", "async-apply", "send-task"}  # by programs, too, and often
_SHOWN: Final = (
    "workername", "queue", "n", "min", "max", "ratelimit", "soft", "hard", "terminate", "signal",
)  # fmt: skip
_FIRST_ERROR: Final = 400
_LONGEST: Final = 200


class StockChange(NamedTuple):
    """What somebody changed.

    Attributes:
        event: What was done, as Flower's address says it, such as `revoke` or `shutdown`.
        scope: `job`, `task` or `worker`.
        name: Which one.
        reason: The arguments that say more, such as `queue=ai`.
        by: Who did it.
    """

    event: str
    scope: str
    name: str
    reason: str
    by: str


def change_in(handler: RequestHandler) -> StockChange | None:
    """The change that a request made by Flower's own API; None if it made none."""
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
    # Not by `get_argument`, which raises for what is not UTF-8: then nothing would be written down.
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
        words = "cannot note %s in the audit trail (%s); it is done all the same"
        _logger.warning(words, change.event, exc)
