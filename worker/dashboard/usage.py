"""Serves the usage of the keys, as JSON or CSV."""

from typing import Any, Final

from redis.asyncio import Redis

from config.current import get_settings
from config.errors import SettingsError
from config.prices import Prices, read_prices
from worker.dashboard.errors import BadRequest, check_service
from worker.dashboard.handlers import AdminHandler
from worker.dashboard.poller import Pools
from worker.dashboard.request_body import check_fields
from worker.usage import GROUPS, UsageQuery, UsageReport, UsageStore

_MAX_CHARACTERS: Final = 200
_TIMEOUT_S: Final = 30.0  # hundreds of busy keys and tenants make thousands of records
_FORMATS: Final = ("json", "csv")


class Usage(AdminHandler):
    """`GET /api/admin/usage`: the usage of the keys and its cost, for each step of time."""

    async def get(self) -> None:
        """Send a report."""
        values = self.query_values()
        check_fields(values, ("range", "step", "by", "format", *GROUPS))
        answer_format = values.pop("format", "json")
        query = _read_query(values, answer_format)
        prices, problem = _prices()
        report = await self._report(query, prices)
        labels = await self.with_pools(_labels)
        if answer_format == "csv":
            self.set_header("Content-Type", "text/csv; charset=UTF-8")
            self.set_header(
                "Content-Disposition", f'attachment; filename="keywheel-usage-{query.range}.csv"'
            )
            self.finish(report.as_csv(labels))
            return
        self.send_json(report.as_json(labels) | {"priced": prices is not None, "problem": problem})

    async def _report(self, query: UsageQuery, prices: Prices | None) -> UsageReport:
        async def read(redis: Redis) -> UsageReport:
            store = UsageStore(redis, namespace=get_settings().namespace)
            return await UsageReport.make(store, query, prices)

        return await self.poller.with_redis(read, timeout_s=_TIMEOUT_S)


def _read_query(values: dict[str, Any], answer_format: str) -> UsageQuery:
    if any(len(value) > _MAX_CHARACTERS or not value.isprintable() for value in values.values()):
        raise BadRequest(
            f"Each value must be plain text of 1 to {_MAX_CHARACTERS} characters.",
        )
    if service := values.get("service"):
        check_service(service)
    if answer_format not in _FORMATS:
        raise BadRequest(f"format must be one of: {', '.join(_FORMATS)}.")
    try:
        return UsageQuery.of(values)
    except ValueError as exc:
        raise BadRequest(str(exc)) from None


def _prices() -> tuple[Prices | None, str]:
    """Read the prices; if that fails, return None and a sentence that explains the problem."""
    try:
        return read_prices(), ""
    except SettingsError as exc:
        return None, str(exc)


async def _labels(pools: Pools) -> dict[str, str]:
    return {key.id: key.label for pool in pools.values() for key in pool.keys}
