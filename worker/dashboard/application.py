"""Flower with the keys in it."""

import hmac
import logging
from typing import Any

from flower import views
from flower.app import Flower, rewrite_handler
from flower.urls import settings as flower_settings
from tornado.web import url

from config.settings import get_settings
from worker.dashboard import api, dead_letters, metrics, page
from worker.dashboard.auth import Doors
from worker.dashboard.broker import look_as_workers_do
from worker.dashboard.deferrals import Deferrals
from worker.dashboard.ended import jobs_ended
from worker.dashboard.poller import Lookout
from worker.dashboard.templates import KeysLoader

_logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_CONNECTIONS = 20
_PREFIX = "/api/admin/api-keys"
_LETTERS = "/api/admin/dead-letters"
HANDLERS = [
    url(r"/keys", page.Page, name="keys"),
    url(r"/keys/static/[0-9a-f]{10}/(.*)", page.Static, {"path": str(page.STATIC)}),
    url(r"/metrics", metrics.Metrics),
    url(rf"{_PREFIX}/status", api.Status, name="keys-status"),
    url(rf"{_PREFIX}/audit", api.Audit, name="keys-audit"),
    url(rf"{_PREFIX}/reset", api.Reset, name="keys-reset"),
    url(rf"{_PREFIX}/check", api.Check, name="keys-check"),
    url(rf"{_PREFIX}/disable", api.Disable, name="keys-disable"),
    url(r"/api/admin/jobs/([^/]+)/cancel", api.Cancel, name="jobs-cancel"),
    url(_LETTERS, dead_letters.Letters, name="letters-list"),
    url(rf"{_LETTERS}/replay", dead_letters.Replay, name="letters-replay"),
    url(rf"{_LETTERS}/drop", dead_letters.Drop, name="letters-drop"),
]


class KeysFlower(Flower):
    """The stock application with our handlers, templates and a look at the keys in the background.

    Args:
        options: Flower's options.
        capp: The Celery app.
        settings: Tornado's settings, as Flower makes them.
    """

    def __init__(self, options: Any = None, capp: Any = None, **settings: Any) -> None:
        settings.setdefault("template_loader", KeysLoader(flower_settings["template_path"]))
        # Flower asks the workers several things at once, and each takes two connections: with few
        # it waits for itself.
        capp.conf.broker_pool_limit = _CONNECTIONS
        super().__init__(options=options, capp=capp, **settings)
        ours = get_settings()
        token = ours.admin_token
        self.admin_token = token.get_secret_value() if token else None
        self.lookout = Lookout(ours, self.capp, ended=lambda: jobs_ended(self.events.state.metrics))
        self.metrics = metrics.registry_of(self.lookout)
        self.deferrals = Deferrals(self.metrics)
        self._hear_events()
        look_as_workers_do()
        prefix = self.options.url_prefix
        # Before Flower's own handlers, the last of which answers everything with 404.
        self.add_handlers(
            ".*", [rewrite_handler(one, prefix) for one in HANDLERS] if prefix else HANDLERS
        )

    @property
    def doors(self) -> Doors:
        """What lets an administrator in."""
        return Doors.of(self.options, self.admin_token)

    def _hear_events(self) -> None:
        """Hear of every event after Flower's own state has, which then knows the task's name."""
        flowers = self.events.on_event

        def on_event(event: dict[str, Any]) -> None:
            flowers(event)
            if event.get("type") == "task-retried":
                self.io_loop.add_callback(self._hear, event)

        self.events.on_event = on_event

    def _hear(self, event: dict[str, Any]) -> None:
        task = self.events.state.tasks.get(event.get("uuid"))
        self.deferrals.hear(event, task.name if task else None)

    def start_http_server(self) -> Any:
        """Listen.

        To this machine alone where nobody has to log in, whatever the address asked for.
        """
        address = self.options.address
        if not (self.doors.people or self.options.unix_socket or _is_loopback(address)):
            _logger.warning(
                "Flower listens on %s only, not on %s: no login is configured (FLOWER_BASIC_AUTH)",
                _LOOPBACK,
                address or "every address",
            )
            self.options.address = _LOOPBACK
        return super().start_http_server()

    def start(self) -> None:
        """Begin to look at the keys, then serve until stopped."""
        self.lookout.start()
        super().start()

    def stop(self) -> None:
        """Stop serving and looking. A second call does nothing."""
        super().stop()
        self.lookout.stop()


def _is_loopback(address: str) -> bool:
    return address in {"localhost", "::1"} or address.startswith("127.")


class _Bytes:
    """Flower's way to compare credentials, for those that are not ASCII as well.

    Python refuses such texts.
    """

    @staticmethod
    def compare_digest(stored: str, given: str) -> bool:
        return hmac.compare_digest(stored.encode(), given.encode())


views.hmac = _Bytes
