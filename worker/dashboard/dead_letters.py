"""Serves the JSON endpoints for dead letters; `docs/openapi.yaml` describes them.

No endpoint shows a job's arguments.
"""

import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from worker.broker_errors import BROKER_ERRORS
from worker.dashboard.cursor import LATEST_MS, next_cursor, read_cursor
from worker.dashboard.errors import ApiError, BadRequest, check_service
from worker.dashboard.handlers import AdminHandler, ChangeHandler
from worker.dashboard.request_body import (
    FLAG,
    MAX_IDS,
    TEXT,
    Form,
    are_ids,
    check_fields,
    check_forms,
    read_object,
    whole_number,
)
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
"""How many dead letters one request may replay or drop; another request handles the next ones."""

_MAX_LISTED = 500
_DEFAULT_LISTED = 50
_CHANGE_TIMEOUT_S = 60.0
_FILTERS = ("service", "task", "kind", "before", "search")
_ID_RE = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters that a request concerns.

    Attributes:
        ids: The jobs' ids; None if `filter` selects the dead letters.
        filter: Selects the dead letters if `ids` is None. Otherwise only its `before_ms` counts,
            because a job may have died again since the visitor saw its dead letter.
        force: Replay emails that may have been sent, too.
    """

    ids: tuple[str, ...] | None
    filter: Filter
    force: bool = False

    async def find(self, store: DeadLetters, *, limit: int) -> list[DeadLetter]:
        """Find the selected dead letters.

        Raises:
            ApiError: 404 if no job has a dead letter, or no dead letter is old enough.
        """
        if self.ids is None:
            return await store.find(self.filter, limit=limit)
        found, before_ms = list[DeadLetter](), self.filter.before_ms
        for job_id in self.ids:
            with suppress(KeyError):
                found.append((await store.get(job_id))[0])
        if not found:
            raise _unknown_dead_letter()
        seen = [letter for letter in found if before_ms is None or letter.at_ms < before_ms]
        if not seen:
            raise _newer_dead_letter()
        return seen


def read_selection(values: dict[str, Any], *, fields: Collection[str], needed: bool) -> Selection:
    """Read the selection of dead letters from a request.

    Args:
        values: The fields of the request.
        fields: The fields that it may have.
        needed: Whether the request must select; otherwise no selection means all dead letters.

    Raises:
        ApiError: 400 for an invalid field or selection, 404 for an unknown service.
    """
    check_fields(values, fields)
    check_forms(values, _FORMS)
    check_service(values.get("service", OWNERS[0]), OWNERS)
    if values.get("kind", KINDS[0]) not in KINDS:
        raise BadRequest(f"kind must be one of: {', '.join(KINDS)}.")
    ids = tuple(values.get("ids", ())) or ((values["id"],) if "id" in values else None)
    if not all(map(_ID_RE.fullmatch, ids or ())):
        raise _unknown_dead_letter()
    filters = set(_FILTERS) - ({"before"} if ids else set())
    ways = sum(["id" in values, "ids" in values, bool(values.keys() & filters)])
    ways += values.get("all", False)
    if ways > 1 or (needed and not ways):
        raise BadRequest(
            "Select the dead letters in exactly one way: by id, by ids, by filters (service, task, "
            "kind, before, search), or by all. Only before may be given beside id or ids."
        )
    chosen = Filter(*map(values.get, _FILTERS))
    return Selection(ids, chosen, force=values.get("force", False))


def _is_moment(value: Any) -> bool:
    return value is None or (type(value) is int and 0 < value <= LATEST_MS)


_FORMS: Final[Mapping[str, Form]] = {
    "ids": (lambda value: are_ids(value) and bool(value), f"a list of 1 to {MAX_IDS} ids"),
    **dict.fromkeys(("id", "service", "task", "kind", "search"), TEXT),
    **dict.fromkeys(("all", "force"), FLAG),
    "before": (_is_moment, "a whole number of milliseconds since 1970"),
}


def _unknown_dead_letter() -> ApiError:
    return ApiError(404, "unknown_dead_letter", "This job has no dead letter.")


def _newer_dead_letter() -> ApiError:
    return ApiError(
        404,
        "unknown_dead_letter",
        "The job has died again since, and has a newer dead letter: look at that one first.",
    )


class DeadLetterList(AdminHandler):
    """`GET /api/admin/dead-letters`: jobs that ended without success, the latest first."""

    async def get(self) -> None:
        """Send some dead letters, and how many there are in all."""
        values: dict[str, Any] = self.query_values()
        limit = whole_number(values.pop("limit", str(_DEFAULT_LISTED)), "limit", most=_MAX_LISTED)
        skipped = 0
        if "before" in values:
            values["before"], skipped = read_cursor(values["before"])
        selection = read_selection(values, fields=_FILTERS, needed=False)
        end = skipped + limit

        async def read(store: DeadLetters) -> dict[str, Any]:
            letters = await selection.find(store, limit=end + 1)
            return (await store.counts()).as_json() | {
                "dead_letters": [_as_json(letter) for letter in letters[skipped:end]],
                "next_before": next_cursor([letter.at_ms for letter in letters], end),
            }

        self.send_json(await self.poller.with_dead_letters(read))


class _DeadLetterChange(ChangeHandler):
    async def selected(self) -> tuple[Selection, list[DeadLetter], bool]:
        """The dead letters that the body selects.

        Returns:
            The selection, the dead letters (at most `MAX_CHANGED`), and whether there are more.
        """
        selection = read_selection(read_object(self.raw_body()), fields=self.fields, needed=True)

        async def find(store: DeadLetters) -> list[DeadLetter]:
            return await selection.find(store, limit=MAX_CHANGED + 1)

        letters = await self.poller.with_dead_letters(find)
        return selection, letters[:MAX_CHANGED], len(letters) > MAX_CHANGED


class Replay(_DeadLetterChange):
    """`POST /api/admin/dead-letters/replay`: run jobs again."""

    fields = ("id", "ids", *_FILTERS, "all", "force")

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
            done = await self.poller.with_dead_letters(send_again, timeout_s=_CHANGE_TIMEOUT_S)
        except BROKER_ERRORS as exc:
            raise ApiError(
                503, "broker_unreachable", "The broker does not answer; the dead letters are kept."
            ) from exc
        await self.poll_change()
        self.send_json(done.as_json() | {"more": more, "by": self.admin})


class Drop(_DeadLetterChange):
    """`POST /api/admin/dead-letters/drop`: delete dead letters."""

    fields = ("id", "ids", *_FILTERS, "all")

    async def post(self) -> None:
        """Delete the dead letters for good."""
        _, letters, more = await self.selected()

        async def drop(store: DeadLetters) -> int:
            return await store.delete(letters, by=f"flower {self.admin}")

        dropped = await self.poller.with_dead_letters(drop, timeout_s=_CHANGE_TIMEOUT_S)
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
