"""The JSON endpoints for dead letters; `docs/openapi.yaml` describes them.

None of them shows an argument of a job.
"""

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from kombu.exceptions import OperationalError

from worker.dashboard.api import AdminHandler, Change
from worker.dashboard.errors import Refusal
from worker.dashboard.request_body import read_object, whole_number
from worker.deadletters import (
    KINDS,
    SERVICES,
    DeadLetters,
    Filter,
    Letter,
    Replayed,
    objection,
    replay,
)

MOST_AT_ONCE: Final = 1_000
"""Letters that one request replays or drops; another one goes on."""

_MOST_SHOWN = 500
_SHOWN = 50
_MOST_CHARACTERS = 200
_WITHIN_S = 60.0
_LATEST_MS = 10**15
_ID_RE = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Which:
    """The letters that a request means.

    Attributes:
        id: The one of this job; else those that the filter takes.
        filter: Which.
        force: Also emails that may have been sent.
    """

    id: str | None
    filter: Filter
    force: bool = False

    async def find(self, store: DeadLetters, *, limit: int) -> list[Letter]:
        """Find them.

        Raises:
            Refusal: 404; no letter has this id.
        """
        if self.id is None:
            return await store.find(self.filter, limit=limit)
        try:
            return [(await store.get(self.id))[0]]
        except KeyError:
            raise Refusal(404, "unknown_letter", "There is no dead letter of this job.") from None


def read_which(found: dict[str, Any], *, fields: Collection[str], needed: bool) -> Which:
    """Read which letters are meant.

    Args:
        found: The names and values of a request.
        fields: The names that it may hold.
        needed: Whether it must say so; else nothing means all.

    Raises:
        Refusal: 400 for what is not understood, 404 for an unknown service.
    """
    if unknown := sorted(set(found).difference(fields)):
        raise Refusal(
            400,
            "unknown_field",
            f"Unknown field {unknown[0][:40]!r}; known are: {', '.join(fields)}.",
        )
    _check_types(found)
    if found.get("service", SERVICES[0]) not in SERVICES:
        raise Refusal(
            404, "unknown_service", f"There is no such service; known are: {', '.join(SERVICES)}."
        )
    if found.get("kind", KINDS[0]) not in KINDS:
        raise Refusal(400, "bad_request", f"kind must be one of: {', '.join(KINDS)}.")
    if "id" in found and not _ID_RE.fullmatch(found["id"]):
        raise Refusal(404, "unknown_letter", "There is no dead letter of this job.")
    ways = (
        ("id" in found)
        + bool({"service", "task", "kind", "before"} & set(found))
        + found.get("all", False)
    )
    if ways > 1 or (needed and not ways):
        raise Refusal(
            400, "bad_request", "Say which letters: id; or service, task, kind, before; or all."
        )
    chosen = Filter(found.get("service"), found.get("task"), found.get("kind"), found.get("before"))
    return Which(found.get("id"), chosen, force=found.get("force", False))


def _check_types(found: dict[str, Any]) -> None:
    for name in ("id", "service", "task", "kind"):
        value = found.get(name, "x")
        if (
            not isinstance(value, str)
            or not 1 <= len(value) <= _MOST_CHARACTERS
            or not value.isprintable()
        ):
            raise Refusal(
                400,
                "bad_request",
                f"{name} must be plain text of 1 to {_MOST_CHARACTERS} characters.",
            )
    for name in ("all", "force"):
        if not isinstance(found.get(name, False), bool):
            raise Refusal(400, "bad_request", f"{name} must be true or false.")
    before = found.get("before")
    if before is not None and (type(before) is not int or not 0 < before < _LATEST_MS):
        raise Refusal(
            400, "bad_request", "before must be a whole number of milliseconds since 1970."
        )


class Letters(AdminHandler):
    """`GET /api/admin/dead-letters`: jobs that ended for good without success, the latest first."""

    async def get(self) -> None:
        """Answer with some of them, and how many there are."""
        found: dict[str, Any] = {
            name: self.get_query_argument(name) for name in self.request.query_arguments
        }
        limit = whole_number(found.pop("limit", str(_SHOWN)), "limit", most=_MOST_SHOWN)
        if "before" in found:
            found["before"] = whole_number(found["before"], "before", most=_LATEST_MS - 1)
        which = read_which(found, fields=("service", "task", "kind", "before"), needed=False)

        async def read(store: DeadLetters) -> dict[str, Any]:
            letters = await which.find(store, limit=limit)
            return (await store.counts()).as_json() | {
                "letters": [_shown(letter) for letter in letters]
            }

        self.answer(await self.ask_dead(read))


class _LettersChange(Change):
    async def chosen(self) -> tuple[Which, list[Letter], bool]:
        """The letters that the body means, at most as many as one request may change, and whether there are more."""
        which = read_which(read_object(self.body()), fields=self.fields, needed=True)

        async def find(store: DeadLetters) -> list[Letter]:
            return await which.find(store, limit=MOST_AT_ONCE + 1)

        letters = await self.ask_dead(find)
        return which, letters[:MOST_AT_ONCE], len(letters) > MOST_AT_ONCE


class Replay(_LettersChange):
    """`POST /api/admin/dead-letters/replay`: run jobs again."""

    fields = ("id", "service", "task", "kind", "before", "all", "force")

    async def post(self) -> None:
        """Send them again and forget their letters."""
        which, letters, more = await self.chosen()

        async def again(store: DeadLetters) -> Replayed:
            return await replay(
                store,
                letters,
                app=self.application.capp,
                by=f"flower {self.admin}",
                now_ms=_now_ms(),
                force=which.force,
            )

        try:
            done = await self.ask_dead(again, within_s=_WITHIN_S)
        except OperationalError as exc:
            raise Refusal(
                503, "broker_unreachable", "The broker does not answer; the letters are kept."
            ) from exc
        await self.show_change()
        self.answer(done.as_json() | {"more": more, "by": self.admin})


class Drop(_LettersChange):
    """`POST /api/admin/dead-letters/drop`: throw letters away."""

    fields = ("id", "service", "task", "kind", "before", "all")

    async def post(self) -> None:
        """Forget them for good."""
        _, letters, more = await self.chosen()

        async def drop(store: DeadLetters) -> int:
            return await store.forget(letters, by=f"flower {self.admin}")

        dropped = await self.ask_dead(drop, within_s=_WITHIN_S)
        await self.show_change()
        self.answer({"dropped": dropped, "more": more, "by": self.admin})


def _shown(letter: Letter) -> dict[str, Any]:
    blocked = objection(letter, now_ms=_now_ms(), force=True)
    return letter.as_json() | {
        "needs_force": blocked is None
        and objection(letter, now_ms=_now_ms(), force=False) is not None
    }


def _now_ms() -> int:
    return round(time.time() * 1000)
