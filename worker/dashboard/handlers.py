"""Authenticates requests to the JSON endpoints, reports their errors, and limits their bodies."""

import json
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NoReturn

from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler, stream_request_body

from worker.dashboard.auth import Visitor, refuse_other_sites
from worker.dashboard.errors import CODES, ApiError, BadRequest, RedisUnreachable
from worker.dashboard.poller import Poller, Pools, ResultT
from worker.dashboard.request_body import (
    MAX_BODY_BYTES,
    RequestBody,
    check_headers,
    read_body,
    too_large,
)
from worker.dashboard.state import DashboardState


class AdminHandler(BaseHandler):
    """An endpoint for administrators only. Every answer, errors included, is JSON."""

    visitor: Visitor
    """The sender of the request; known once the request is authenticated."""

    @property
    def admin(self) -> str:
        """The name of the sender."""
        return self.visitor.name

    @property
    def poller(self) -> Poller:
        """The application's poller."""
        poller: Poller = self.application.poller
        return poller

    def set_default_headers(self) -> None:
        """Keep other sites from reading the answer, and caches from storing it."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Authenticate the request before its body is read."""
        self.visitor = self.application.visitor(self.request)

    def check_xsrf_cookie(self) -> None:
        """Refuse changes that another site requests.

        A browser's OAuth session also needs Flower's token.
        """
        refuse_other_sites(self.request.headers, self.request.host)
        if self.application.options.auth and not self.request.headers.get("Authorization"):
            RequestHandler.check_xsrf_cookie(self)

    def options(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse every preflight request."""
        raise HTTPError(405)

    async def with_pools(self, work: Callable[[Pools], Awaitable[ResultT]]) -> ResultT:
        """Run `work` with the key pools.

        Raises:
            ApiError: 503 if Redis does not answer, 404 for an unknown key.
        """
        try:
            return await self.poller.with_pools(work)
        except KeyError:
            raise ApiError(404, "unknown_key", "This Flower knows no key with that id.") from None

    def status_of(self, state: DashboardState) -> dict[str, Any]:
        """Return the state as JSON, with whether this visitor may change anything."""
        read_only = self.application.options.read_only or not self.visitor.may_change
        return state.as_json() | {"read_only": bool(read_only)}

    def query_values(self) -> dict[str, str]:
        """Return the fields in the address.

        Raises:
            ApiError: 400 if a field is named twice, because only one of its values could count.
        """
        given = self.request.query_arguments
        if twice := [name for name, values in given.items() if len(values) > 1]:
            raise BadRequest(f"The address names {twice[0][:40]!r} twice.")
        return {name: self.get_query_argument(name) for name in given}

    def send_json(self, value: dict[str, Any]) -> None:
        """End the request with `value` as JSON."""
        self.finish(json.dumps(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """End the request with the error as JSON, without a traceback."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        if isinstance(error, ApiError):
            code, message = error.code, error.message
        else:
            code = CODES.get(status_code, CODES[500])
            message = {
                403: "The request carries no valid _xsrf token.",
                405: "This address does not support that method.",
            }.get(status_code, "The request could not be served.")
        if status_code == 401:  # noqa: PLR2004
            # After a script's request, a Basic challenge would make the browser ask for a password
            # again and again.
            by_script = self.request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
            for scheme in self.application.auth_config.schemes:
                if not (by_script and scheme.startswith("Basic")):
                    self.add_header("WWW-Authenticate", scheme)
        if status_code == 405:  # noqa: PLR2004
            self.set_header("Allow", "POST" if isinstance(self, ChangeHandler) else "GET")
        self.finish(json.dumps({"error": code, "message": message}))


@stream_request_body
class ChangeHandler(AdminHandler):
    """An endpoint that changes something. It discards what exceeds the limit of a body."""

    fields: Collection[str] = ()

    def prepare(self) -> None:
        """Authenticate the request and check its headers before its body is read."""
        self._body = bytearray()
        super().prepare()
        if self.request.method != "POST":
            raise HTTPError(405)
        if self.application.options.read_only:
            raise ApiError(403, "read_only", "This Flower was started with --read-only.")
        check_headers(self.request.headers, self.request.query)

    def data_received(self, chunk: bytes) -> None:
        """Collect a part of the body, and discard what exceeds the limit."""
        if len(self._body) <= MAX_BODY_BYTES:
            self._body += chunk

    def raw_body(self) -> bytes:
        """Return the whole body.

        Raises:
            ApiError: 413 if the body is too large.
        """
        if len(self._body) > MAX_BODY_BYTES:
            raise too_large()
        return bytes(self._body)

    def body(self) -> RequestBody:
        """Read and check the body; see `read_body`."""
        return read_body(self.raw_body(), fields=self.fields)

    async def poll_change(self) -> None:
        """Poll now, so that the next status shows the change."""
        try:
            await self.poller.fresh_state(force=True)
        except RedisUnreachable:  # the change is made; the status follows when Redis answers
            return


class Refused(ChangeHandler):
    """Rejects a request for a change by a visitor who may only look."""

    def prepare(self) -> None:
        """Reject the request."""
        raise ApiError(
            403, "may_only_look", "This login may only look: ADMIN_USERS does not name it."
        )
