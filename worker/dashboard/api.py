"""The JSON endpoints for administrators, on Flower's port: `docs/openapi.yaml` describes them."""

import json
import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NoReturn

from flower.utils.authentication import authenticate
from flower.views import BaseHandler
from tornado.web import HTTPError, RequestHandler, stream_request_body

from config.keys import SERVICES
from config.settings import get_settings
from worker.cancellations import Cancellations, cancel_jobs
from worker.dashboard.auth import Doors, admit, refuse_other_sites
from worker.dashboard.errors import CODES, Refusal
from worker.dashboard.poller import Lookout, Pools, ResultT, Unreachable
from worker.dashboard.request_body import (
    LARGEST_BODY_BYTES,
    Asked,
    check_headers,
    read_body,
    too_large,
    whole_number,
)
from worker.deadletters import DeadLetters
from worker.keypool import ResetDone, resets
from worker.rotation.key_checks import CheckedKey, check_keys, opened_checkers, problems_in

_MOST_ENTRIES = 200
_LATEST_MS = 10**15 - 1
_SERVER_ERROR = 500
_JOB_RE = re.compile(r"[!-~]{1,200}")
_CHECK_WITHIN_S = 5.0  # below what the lookout waits for


class AdminHandler(BaseHandler):
    """An endpoint that answers administrators only, and everyone in JSON."""

    admin = ""
    """Who asks, once it is known."""

    @property
    def lookout(self) -> Lookout:
        """The application's view of the keys."""
        found: Lookout = self.application.lookout
        return found

    def set_default_headers(self) -> None:
        """Send nothing that would let another site read the answer, or a cache keep it."""
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Let administrators in, before the body is read."""
        self.admin = admit(
            self.doors, self.request.headers.get("Authorization", ""), self._session_user()
        )

    @property
    def doors(self) -> Doors:
        """What lets an administrator in."""
        return Doors.of(self.application.options, self.application.admin_token)

    def _session_user(self) -> str | None:
        allowed = self.application.options.auth
        cookie = self.get_secure_cookie("user") if allowed else None
        user = cookie.decode("utf-8", "replace") if cookie else None
        return user if user and authenticate(allowed, user) else None

    def check_xsrf_cookie(self) -> None:
        """Refuse changes that another site asks for.

        A browser's OAuth session also needs Flower's token.
        """
        refuse_other_sites(self.request.headers, self.request.host)
        if self.application.options.auth and not self.request.headers.get("Authorization"):
            RequestHandler.check_xsrf_cookie(self)

    def options(self, *_: Any, **__: Any) -> NoReturn:
        """Allow no preflight."""
        raise HTTPError(405)

    async def ask(self, work: Callable[[Pools], Awaitable[ResultT]]) -> ResultT:
        """Do something with the pools, or refuse with 503 where Redis does not answer, 404 for an unknown key."""
        try:
            return await self.lookout.ask(work)
        except Unreachable as exc:
            raise Refusal(503, "redis_unreachable", f"{exc}.") from exc
        except KeyError:
            raise Refusal(
                404, "unknown_key", "This Flower has no key of that id in its settings."
            ) from None

    async def ask_dead(
        self, work: Callable[[DeadLetters], Awaitable[ResultT]], *, within_s: float = 8.0
    ) -> ResultT:
        """Do something with the dead letters, or refuse with 503 where Redis does not answer."""
        try:
            return await self.lookout.ask_dead(work, within_s=within_s)
        except Unreachable as exc:
            raise Refusal(503, "redis_unreachable", f"{exc}.") from exc

    def answer(self, value: dict[str, Any]) -> None:
        """End with this JSON."""
        self.finish(json.dumps(value))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in JSON why; never a trace."""
        error = (kwargs.get("exc_info") or (None, None, None))[1]
        if isinstance(error, Refusal):
            code, message = error.code, error.message
        else:
            code = CODES.get(
                status_code, "internal_error" if status_code >= _SERVER_ERROR else "bad_request"
            )
            message = {
                403: "The request carries no valid _xsrf token.",
                405: "This address answers no such method.",
            }.get(status_code, "The request was not served.")
        if status_code == 401:  # noqa: PLR2004
            # To a script of our page a browser would answer by asking for a password, again and
            # again.
            by_script = self.request.headers.get("Sec-Fetch-Mode", "navigate") != "navigate"
            for scheme in self.doors.schemes:
                if not (by_script and scheme.startswith("Basic")):
                    self.add_header("WWW-Authenticate", scheme)
        if status_code == 405:  # noqa: PLR2004
            self.set_header("Allow", "POST" if isinstance(self, Change) else "GET")
        self.finish(json.dumps({"error": code, "message": message}))


class Status(AdminHandler):
    """`GET /api/admin/api-keys/status`: every service's keys, queue and last hour."""

    async def get(self) -> None:
        """Answer with the board."""
        try:
            board = await self.lookout.now()
        except Unreachable as exc:
            raise Refusal(503, "redis_unreachable", f"{exc}.") from exc
        self.answer(board.as_json() | {"read_only": bool(self.application.options.read_only)})


class Audit(AdminHandler):
    """`GET /api/admin/api-keys/audit`: what happened to keys and dead letters, the latest first."""

    async def get(self) -> None:
        """Answer with a page of the entries of all services."""
        count = whole_number(self.get_query_argument("count", "50"), "count", most=_MOST_ENTRIES)
        before_ms, skipped = _cursor(self.get_query_argument("before", str(_LATEST_MS)))
        whose = self.get_query_argument("by", "all")
        if whose not in {"all", "people"}:
            raise Refusal(400, "bad_request", "by must be all or people.")
        most = count + skipped + 1

        async def read(pools: Pools) -> list[dict[str, Any]]:
            return [
                {
                    "service": name,
                    **entry,
                    "at_ms": int(entry["at_ms"]),
                    "until_ms": int(entry["until_ms"]),
                }
                for name, pool in pools.items()
                for entry in await pool.audit(
                    count=most, before_ms=before_ms, people_only=whose == "people"
                )
            ]

        async def read_letters(store: DeadLetters) -> list[dict[str, Any]]:
            return [
                {**entry, "at_ms": int(entry["at_ms"]), "until_ms": int(entry["until_ms"])}
                for entry in await store.audit(count=most, before_ms=before_ms)
            ]

        found = await self.ask(read) + await self.ask_dead(read_letters)
        found.sort(key=lambda entry: -entry["at_ms"])
        page = found[skipped : skipped + count]
        self.answer({"entries": page, "next_before": _next_cursor(found, skipped + count)})


def _cursor(text: str) -> tuple[int, int]:
    """Read where a page begins.

    `MS`, or `MS-N` to skip the first N entries before that millisecond.

    Raises:
        Refusal: 400 where it is neither.
    """
    ms, _, skipped = text.partition("-")
    return (
        whole_number(ms, "before", most=_LATEST_MS),
        whole_number(skipped, "before", most=_MOST_ENTRIES * 10) if skipped else 0,
    )


def _next_cursor(entries: list[dict[str, Any]], shown: int) -> str | None:
    """Where the next page begins, since several entries may be of one millisecond.

    None where there is none.
    """
    if len(entries) <= shown:
        return None
    last_ms = entries[shown - 1]["at_ms"]
    return f"{last_ms + 1}-{sum(entry['at_ms'] == last_ms for entry in entries[:shown])}"


@stream_request_body
class Change(AdminHandler):
    """An endpoint that changes something: its body is read only as far as it may go."""

    fields: Collection[str] = ()

    def prepare(self) -> None:
        """Refuse whom and what we do not serve, before the body is read."""
        self._body = bytearray()
        super().prepare()
        if self.request.method != "POST":
            raise HTTPError(405)
        if self.application.options.read_only:
            raise Refusal(403, "read_only", "This Flower was started with --read-only.")
        check_headers(self.request.headers, self.request.query)

    def data_received(self, chunk: bytes) -> None:
        """Take a part of the body; beyond the limit it is thrown away."""
        if len(self._body) <= LARGEST_BODY_BYTES:
            self._body += chunk

    def body(self) -> bytes:
        """The whole body."""
        if len(self._body) > LARGEST_BODY_BYTES:
            raise too_large()
        return bytes(self._body)

    def asked(self) -> Asked:
        """What the body asks for."""
        return read_body(self.body(), services=SERVICES, fields=self.fields)

    async def show_change(self) -> None:
        """Make the next look see the change."""
        try:
            await self.lookout.now(after_change=True)
        except Unreachable:  # the change is made; the view follows when it can
            return


class Reset(Change):
    """`POST /api/admin/api-keys/reset`: bring keys back."""

    fields = ("service", "key", "include_disabled")

    async def post(self) -> None:
        """Reset a key, a service, or everything."""
        asked = self.asked()
        services = [asked.service] if asked.service else SERVICES

        async def reset(pools: Pools) -> dict[str, ResetDone]:
            return {
                name: await pools[name].reset(
                    by=f"flower {self.admin}",
                    key_id=asked.key,
                    include_disabled=asked.include_disabled,
                )
                for name in services
            }

        done = await self.ask(reset)
        await self.show_change()
        self.answer(resets.as_json(done) | {"by": self.admin})


class Cancel(Change):
    """`POST /api/admin/jobs/ID/cancel`: cancel one job, for good."""

    async def post(self, job: str) -> None:
        """Cancel it, and say whether it runs or has ended."""
        if self.asked() != Asked():
            raise Refusal(
                400, "bad_request", "The address names the job; the body has nothing to say."
            )
        if not _JOB_RE.fullmatch(job):
            raise Refusal(404, "unknown_job", "No job has such an id.")
        capp, namespace = self.application.capp, get_settings().namespace
        try:
            found = await self.lookout.ask_redis(
                lambda redis: cancel_jobs(capp, Cancellations(redis, namespace=namespace), [job])
            )
        except Unreachable as exc:
            raise Refusal(503, "redis_unreachable", f"{exc}.") from exc
        self.answer({"job": job, "outcome": found[job], "by": self.admin})


class Check(Change):
    """`POST /api/admin/api-keys/check`: ask the providers about each key, without cost."""

    fields = ("service",)

    async def post(self) -> None:
        """Check the keys of a service, or all."""
        asked = self.asked()
        services = [asked.service] if asked.service else SERVICES
        settings = get_settings()
        models = [settings.groq_model]

        async def check(pools: Pools) -> list[CheckedKey]:
            async with opened_checkers(settings, timeout_s=_CHECK_WITHIN_S) as checkers:
                return await check_keys(
                    {name: pools[name] for name in services}, checkers, models=models
                )

        checked = await self.ask(check)
        told = [one.as_json() for one in checked]
        self.answer(
            {"keys": told, "problems": list(problems_in(checked, models=models)), "by": self.admin}
        )


class Disable(Change):
    """`POST /api/admin/api-keys/disable`: take a key out until it is reset."""

    fields = ("service", "key", "reason")

    async def post(self) -> None:
        """Disable one key."""
        asked = self.asked()
        service, key = asked.service, asked.key
        if service is None or key is None:
            raise Refusal(400, "bad_request", "service and key are needed.")

        async def disable(pools: Pools) -> bool:
            return await pools[service].disable(
                key, by=f"flower {self.admin}", reason=asked.reason or "by hand"
            )

        newly = await self.ask(disable)
        await self.show_change()
        self.answer({"disabled": key, "newly": newly, "by": self.admin})
