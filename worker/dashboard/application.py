"""Extends Flower by the page Keys, the admin endpoints and our metrics."""

import hmac
import logging
from typing import Any

from flower import views
from flower.app import Flower, rewrite_handler
from flower.urls import settings as flower_settings
from flower.utils import authentication
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import OutputTransform, RequestHandler, decode_signed_value, url

from config.current import get_settings
from worker.dashboard import (
    audit,
    dead_letters,
    event_stream,
    jobs,
    key_changes,
    keys,
    metrics,
    page,
    quotes,
    stock_changes,
    stock_pages,
    usage,
)
from worker.dashboard.auth import AuthConfig, Visitor, authenticate
from worker.dashboard.broker import use_our_broker_client
from worker.dashboard.deferrals import Deferrals
from worker.dashboard.ended import jobs_ended
from worker.dashboard.errors import ApiError
from worker.dashboard.handlers import Refused
from worker.dashboard.poller import Poller
from worker.dashboard.templates import KeysLoader
from worker.startup.patience import shorten_waits

_logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_CONNECTIONS = 20
_LOOKS = {"GET", "HEAD", "OPTIONS"}
_LIST_OF_JOBS = "/tasks/datatable"  # Flower's own page of jobs reads its rows by POST
_RESULTS = "/api/task/result/"  # Flower's own: a result may hold the answer to a prompt
_PREFIX = "/api/admin/api-keys"
_DEAD_LETTERS = "/api/admin/dead-letters"
HANDLERS = [
    url(r"/keys", page.Page, name="keys"),
    url(r"/keys/jobs/([^/]+)", page.JobPage, name="job-page"),
    # The page's script sends its requests to addresses below the page's own. If a link led to the
    # page and the browser asked for the login there, the browser sends the login only to addresses
    # beside and below the page (RFC 7617, 2.2).
    url(r"/keys/jobs/([^/]+)/look", jobs.Job, name="job-page-look"),
    url(r"/keys/jobs/([^/]+)/cancel", jobs.Cancel, name="job-page-cancel"),
    url(r"/keys/static/[0-9a-f]{10}/(.*)", page.Static, {"path": str(page.STATIC)}),
    url(r"/metrics", metrics.Metrics),
    url(r"/task/(.+)", stock_pages.TaskPage),
    url(r"/worker/(.+)", stock_pages.WorkerPage),
    url(rf"{_PREFIX}/status", keys.Status, name="keys-status"),
    url(rf"{_PREFIX}/events", event_stream.EventStream, name="keys-events"),
    url(rf"{_PREFIX}/audit", audit.Audit, name="keys-audit"),
    url(rf"{_PREFIX}/reset", keys.Reset, name="keys-reset"),
    url(rf"{_PREFIX}/check", keys.Check, name="keys-check"),
    url(rf"{_PREFIX}/calls", keys.LatestCalls, name="keys-calls"),
    url(rf"{_PREFIX}/reload", keys.Reload, name="keys-reload"),
    url(rf"{_PREFIX}/disable", key_changes.Disable, name="keys-disable"),
    url(rf"{_PREFIX}/enable", key_changes.Enable, name="keys-enable"),
    url(rf"{_PREFIX}/note", key_changes.Note, name="keys-note"),
    url(rf"{_PREFIX}/pause", key_changes.Pause, name="keys-pause"),
    url(rf"{_PREFIX}/resume", key_changes.Resume, name="keys-resume"),
    url(r"/api/admin/jobs/([^/]+)/cancel", jobs.Cancel, name="jobs-cancel"),
    url(r"/api/admin/jobs/([^/]+)", jobs.Job, name="jobs-look"),
    url(r"/api/admin/usage", usage.Usage, name="keys-usage"),
    url(r"/api/admin/quote", quotes.QuoteHandler, name="keys-quote"),
    url(_DEAD_LETTERS, dead_letters.DeadLetterList, name="dead-letters"),
    url(rf"{_DEAD_LETTERS}/replay", dead_letters.Replay, name="dead-letters-replay"),
    url(rf"{_DEAD_LETTERS}/drop", dead_letters.Drop, name="dead-letters-drop"),
]


class _Unframed(OutputTransform):
    """Keeps other sites from showing Flower's pages in a frame, where they could misuse a click."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002, FBT001
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Add the header."""
        headers["X-Frame-Options"] = "DENY"
        return status_code, headers, chunk


class KeysFlower(Flower):
    """The stock application with our handlers and templates, and a poller in the background.

    Args:
        options: Flower's options.
        capp: The Celery app.
        settings: Tornado's settings, as Flower makes them.
    """

    def __init__(self, options: Any = None, capp: Any = None, **settings: Any) -> None:
        settings.setdefault("template_loader", KeysLoader(flower_settings["template_path"]))
        # Flower sends the workers several requests at once, and each request takes two connections.
        # With too few connections, the requests would wait for each other.
        capp.conf.broker_pool_limit = _CONNECTIONS
        shorten_waits(capp)
        super().__init__(options=options, capp=capp, **settings)
        ours = get_settings()
        token = ours.admin_token
        self.auth_config = AuthConfig.from_options(
            self.options,
            token=token.get_secret_value() if token else None,
            admins=filter(None, ours.admin_users.split(",")),
        )
        """Which visitors may look, and which may act."""
        for name in self.auth_config.admins_without_login:
            _logger.warning(
                "ADMIN_USERS names %s, which FLOWER_BASIC_AUTH has no login for: add one", name
            )
        self.poller = Poller(
            ours, self.capp, ended=lambda: jobs_ended(self.events.state.metrics, self.capp)
        )
        self.metrics = metrics.registry_of(self.poller)
        self.deferrals = Deferrals(self.metrics, self.capp)
        self._count_deferrals()
        use_our_broker_client()
        self.add_transform(_Unframed)
        prefix = self.options.url_prefix
        # Our handlers come first: the last of Flower's own answers every request with 404.
        self.add_handlers(
            ".*", [rewrite_handler(rule, prefix) for rule in HANDLERS] if prefix else HANDLERS
        )

    def visitor(self, request: HTTPServerRequest) -> Visitor:
        """Find out who sent a request.

        Raises:
            ApiError: The sender may not look at anything.
        """
        user, allowed = None, self.options.auth
        if allowed and (cookie := request.cookies.get("user")):
            signed = decode_signed_value(self.settings["cookie_secret"], "user", cookie.value)
            user = signed.decode("utf-8", "replace") if signed else None
        return authenticate(
            self.auth_config,
            request.headers.get("Authorization", ""),
            user if user and authentication.authenticate(allowed, user) else None,
        )

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        """Find the handler of a request; reject every change by a visitor who may only look.

        This covers Flower's own pages and API as well.
        """
        if self.auth_config.admins and not self._is_look(request):
            try:
                if not self.visitor(request).may_change:
                    return self.get_handler_delegate(request, Refused)
            except ApiError:  # the sender may not even look: the handler rejects it in its own way
                pass
        return super().find_handler(request, **options)

    def _is_look(self, request: HTTPServerRequest) -> bool:
        if request.method in _LOOKS:
            return _RESULTS not in request.path
        prefix = (self.options.url_prefix or "").strip("/")
        return request.path == (f"/{prefix}" if prefix else "") + _LIST_OF_JOBS

    def log_request(self, handler: RequestHandler) -> None:
        """Record in the audit trail what an answered request changed through Flower's own API."""
        super().log_request(handler)
        if (change := stock_changes.change_in(handler)) is not None:
            IOLoop.current().add_callback(stock_changes.write_down, self.poller, change)

    def _count_deferrals(self) -> None:
        """Count each deferral of which Flower receives an event."""
        stock_on_event = self.events.on_event

        def on_event(event: dict[str, Any]) -> None:
            stock_on_event(event)
            self.deferrals.on_event(event)

        self.events.on_event = on_event

    def start_http_server(self) -> Any:
        """Listen for requests.

        If no login is configured, Flower listens on the loopback address only, whatever address
        it was given.
        """
        address = self.options.address
        if not (
            self.auth_config.allows_people or self.options.unix_socket or _is_loopback(address)
        ):
            _logger.warning(
                "Flower listens on %s only, not on %s: no login is configured (FLOWER_BASIC_AUTH)",
                _LOOPBACK,
                address or "every address",
            )
            self.options.address = _LOOPBACK
        return super().start_http_server()

    def start(self) -> None:
        """Start polling, then serve until stopped."""
        self.poller.start()
        super().start()

    def stop(self) -> None:
        """Stop serving and polling. A second call does nothing."""
        super().stop()
        self.poller.stop()


def _is_loopback(address: str) -> bool:
    return address in {"localhost", "::1"} or address.startswith("127.")


class _Bytes:
    """Compares credentials for Flower, which passes text to `hmac`.

    `hmac.compare_digest` rejects text beyond ASCII, so the texts are compared as bytes.
    """

    @staticmethod
    def compare_digest(stored: str, given: str) -> bool:
        return hmac.compare_digest(stored.encode(), given.encode())


views.hmac = _Bytes
