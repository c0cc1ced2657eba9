"""The JSON endpoints for dead letters; `docs/openapi.yaml` describes them.

None of them shows a job's arguments.
"""

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from kombu.exceptions import OperationalError

from worker.dashboard.errors import ApiError
from worker.dashboard.handlers import AdminHandler, ChangeHandler
from worker.dashboard.request_body import check_fields, read_object, whole_number
from worker.deadletters import (
    KINDS,
    OWNERS,
    DeadLetter,
    DeadLetters,
    Filter,
    Replayed,
    objection,
    replay,
)

MAX_CHANGED: Final = 1_000
"""How many dead letters one request replays or drops; another request goes on."""

_MAX_LISTED = 500
_DEFAULT_LISTED = 50
_MAX_CHARACTERS = 200
_CHANGE_TIMEOUT_S = 60.0
_LATEST_MS = 10**15
_ID_RE = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters that a request concerns.

    Attributes:
        id: The job's id; None where `filter` selects.
        filter: Which dead letters, where `id` is None.
        force: Replay emails that may have been sent, too.
    """

    id: str | None
    filter: Filter
    force: bool = False

    async def find(self, store: DeadLetters, *, limit: int) -> list[DeadLetter]:
        """Find them.

        Raises:
            ApiError: 404 where the job has no dead letter.
        """
        if self.id is None:
            return await store.find(self.filter, limit=limit)
        try:
            return [(await store.get(self.id))[0]]
        except KeyError:
            raise _unknown_dead_letter() from None


def read_selection(values: dict[str, Any], *, fields: Collection[str], needed: bool) -> Selection:
    """Read which dead letters a request concerns.

    Args:
        values: The fields of the request.
        fields: The fields that it may have.
        needed: Whether the request must name a selection; otherwise none means all.

    Raises:
        ApiError: 400 for what cannot be read, 404 for an unknown service.
    """
    check_fields(values, fields)
    _check_types(values)
    if values.get("service", OWNERS[0]) not in OWNERS:
        raise ApiError(
            404, "unknown_service", f"There is no such service; known are: {', '.join(OWNERS)}."
        )
    if values.get("kind", KINDS[0]) not in KINDS:
        raise ApiError(400, "bad_request", f"kind must be one of: {', '.join(KINDS)}.")
    if "id" in values and not _ID_RE.fullmatch(values["id"]):
        raise _unknown_dead_letter()
    ways = (
        ("id" in values)
        + bool({"service", "task", "kind", "before"} & set(values))
        + values.get("all", False)
    )
    if ways > 1 or (needed and not ways):
        raise ApiError(
            400,
            "bad_request",
            "Name the dead letters: id; or service, task, kind, before; or all.",
        )
    chosen = Filter(
        values.get("service"), values.get("task"), values.get("kind"), values.get("before")
    )
    return Selection(values.get("id"), chosen, force=values.get("force", False))


def _check_types(values: dict[str, Any]) -> None:
    for name in ("id", "service", "task", "kind"):
        value = values.get(name, "x")
        if (
            not isinstance(value, str)
            or not 1 <= len(value) <= _MAX_CHARACTERS
            or not value.isprintable()
        ):
            raise ApiError(
                400,
                "bad_request",
                f"{name} must be plain text of 1 to {_MAX_CHARACTERS} characters.",
            )
    for name in ("all", "force"):
        if not isinstance(values.get(name, False), bool):
            raise ApiError(400, "bad_request", f"{name} must be true or false.")
    before = values.get("before")
    if before is not None and (type(before) is not int or not 0 < before < _LATEST_MS):
        raise ApiError(
            400, "bad_request", "before must be a whole number of milliseconds since 1970."
        )


def _unknown_dead_letter() -> ApiError:
    return ApiError(404, "unknown_dead_letter", "This job has no dead letter.")


class DeadLetterList(AdminHandler):
    """`GET /api/admin/dead-letters`: jobs that ended without success, the latest first."""

    async def get(self) -> None:
        """Send some dead letters, and how many there are in all."""
        values: dict[str, Any] = {
            name: self.get_query_argument(name) for name in self.request.query_arguments
        }
        limit = whole_number(values.pop("limit", str(_DEFAULT_LISTED)), "limit", most=_MAX_LISTED)
        if "before" in values:
            values["before"] = whole_number(values["before"], "before", most=_LATEST_MS - 1)
        selection = read_selection(
            values, fields=("service", "task", "kind", "before"), needed=False
        )

        async def read(store: DeadLetters) -> dict[str, Any]:
            letters = await selection.find(store, limit=limit)
            return (await store.counts()).as_json() | {
                "dead_letters": [_as_json(letter) for letter in letters]
            }

        self.send_json(await self.with_dead_letters(read))


class _DeadLetterChange(ChangeHandler):
    async def selected(self) -> tuple[Selection, list[DeadLetter], bool]:
        """The dead letters that the body selects.

        Returns:
            The selection, the dead letters (at most `MAX_CHANGED`), and whether there are more.
        """
        selection = read_selection(read_object(self.raw_body()), fields=self.fields, needed=True)

        async def find(store: DeadLetters) -> list[DeadLetter]:
            return await selection.find(store, limit=MAX_CHANGED + 1)

        letters = await self.with_dead_letters(find)
        return selection, letters[:MAX_CHANGED], len(letters) > MAX_CHANGED


class Replay(_DeadLetterChange):
    """`POST /api/admin/dead-letters/replay`: run jobs again."""

    fields = ("id", "service", "task", "kind", "before", "all", "force")

    async def post(self) -> None:
        """Send the jobs again and delete their dead letters."""
        selection, letters, more = await self.selected()

        async def send_again(store: DeadLetters) -> Replayed:
            return await replay(
                store,
                letters,
                app=self.application.capp,
                by=f"flower {self.admin}",
                now_ms=_now_ms(),
                force=selection.force,
            )

        try:
            done = await self.with_dead_letters(send_again, timeout_s=_CHANGE_TIMEOUT_S)
        except OperationalError as exc:
            raise ApiError(
                503, "broker_unreachable", "The broker does not answer; the dead letters are kept."
            ) from exc
        await self.poll_change()
        self.send_json(done.as_json() | {"more": more, "by": self.admin})


class Drop(_DeadLetterChange):
    """`POST /api/admin/dead-letters/drop`: delete dead letters."""

    fields = ("id", "service", "task", "kind", "before", "all")

    async def post(self) -> None:
        """Delete the dead letters for good."""
        _, letters, more = await self.selected()

        async def drop(store: DeadLetters) -> int:
            return await store.delete(letters, by=f"flower {self.admin}")

        dropped = await self.with_dead_letters(drop, timeout_s=_CHANGE_TIMEOUT_S)
        await self.poll_change()
        self.send_json({"dropped": dropped, "more": more, "by": self.admin})


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    now_ms = _now_ms()
    blocked = objection(letter, now_ms=now_ms, force=True)
    return letter.as_json() | {
        "needs_force": blocked is None and objection(letter, now_ms=now_ms, force=False) is not None
    }


def _now_ms() -> int:
    return round(time.time() * 1000)
