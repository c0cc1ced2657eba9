"""The endpoint for the audit trail, one page after the other."""

from typing import Any

from worker.dashboard.errors import ApiError
from worker.dashboard.handlers import AdminHandler
from worker.dashboard.poller import Pools
from worker.dashboard.request_body import whole_number
from worker.deadletters import DeadLetters

_MAX_ENTRIES = 200
_LATEST_MS = 10**15 - 1


class Audit(AdminHandler):
    """`GET /api/admin/api-keys/audit`: what happened to keys and dead letters, the latest first."""

    async def get(self) -> None:
        """Send a page of the entries of all services."""
        count = whole_number(self.get_query_argument("count", "50"), "count", most=_MAX_ENTRIES)
        before_ms, skipped = _read_cursor(self.get_query_argument("before", str(_LATEST_MS)))
        by = self.get_query_argument("by", "all")
        if by not in {"all", "people"}:
            raise ApiError(400, "bad_request", "by must be all or people.")
        limit = count + skipped + 1

        async def read_keys(pools: Pools) -> list[dict[str, Any]]:
            return [
                {"service": name, **_with_numbers(entry)}
                for name, pool in pools.items()
                for entry in await pool.audit(
                    count=limit, before_ms=before_ms, people_only=by == "people"
                )
            ]

        async def read_dead_letters(store: DeadLetters) -> list[dict[str, Any]]:
            entries = await store.audit(count=limit, before_ms=before_ms)
            return [_with_numbers(entry) for entry in entries]

        entries = await self.with_pools(read_keys) + await self.with_dead_letters(read_dead_letters)
        entries.sort(key=lambda entry: -entry["at_ms"])
        page = entries[skipped : skipped + count]
        self.send_json({"entries": page, "next_before": _next_cursor(entries, skipped + count)})


def _with_numbers(entry: dict[str, str]) -> dict[str, Any]:
    return {**entry, "at_ms": int(entry["at_ms"]), "until_ms": int(entry["until_ms"])}


def _read_cursor(text: str) -> tuple[int, int]:
    """Read where a page begins.

    Args:
        text: `MS`, or `MS-N` to skip the first N entries before that millisecond.

    Returns:
        The millisecond, and how many entries to skip.

    Raises:
        ApiError: 400 where it is neither.
    """
    ms, _, skipped = text.partition("-")
    return (
        whole_number(ms, "before", most=_LATEST_MS),
        whole_number(skipped, "before", most=_MAX_ENTRIES * 10) if skipped else 0,
    )


def _next_cursor(entries: list[dict[str, Any]], shown: int) -> str | None:
    """Where the next page begins, since several entries may be of one millisecond.

    Returns:
        A cursor as `_read_cursor` reads it; None where this page is the last one.
    """
    if len(entries) <= shown:
        return None
    last_ms = entries[shown - 1]["at_ms"]
    return f"{last_ms + 1}-{sum(entry['at_ms'] == last_ms for entry in entries[:shown])}"
