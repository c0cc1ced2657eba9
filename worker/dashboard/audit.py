"""Serves the audit trail, page by page."""

from typing import Any

from worker.action_log import ActionLog
from worker.dashboard.cursor import LATEST_MS, next_cursor, read_cursor
from worker.dashboard.errors import BadRequest
from worker.dashboard.handlers import AdminHandler
from worker.dashboard.poller import Pools
from worker.dashboard.request_body import check_fields, whole_number
from worker.deadletters import DeadLetters

_MAX_ENTRIES = 200


class Audit(AdminHandler):
    """`GET /api/admin/api-keys/audit`: changes of keys and actions of people, the latest first."""

    async def get(self) -> None:
        """Send a page of the entries of all services."""
        values = self.query_values()
        check_fields(values, ("count", "before", "by"))
        count = whole_number(values.get("count", "50"), "count", most=_MAX_ENTRIES)
        before_ms, skipped = read_cursor(values.get("before", str(LATEST_MS)))
        by = values.get("by", "all")
        if by not in {"all", "people"}:
            raise BadRequest("by must be all or people.")
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

        async def read_actions(log: ActionLog) -> list[dict[str, Any]]:
            entries = await log.read(count=limit, before_ms=before_ms)
            return [_with_numbers(entry) for entry in entries]

        entries = await self.with_pools(read_keys) + await self.poller.with_dead_letters(
            read_dead_letters
        )
        entries += await self.poller.with_actions(read_actions)
        entries.sort(key=lambda entry: -entry["at_ms"])
        page = entries[skipped : skipped + count]
        self.send_json(
            {
                "entries": page,
                "next_before": next_cursor([entry["at_ms"] for entry in entries], skipped + count),
            }
        )


def _with_numbers(entry: dict[str, str]) -> dict[str, Any]:
    return {**entry, "at_ms": int(entry["at_ms"]), "until_ms": int(entry["until_ms"])}
