"""Serves quotes: when jobs that are not enqueued yet would start and end."""

from config.current import get_settings
from worker.arguments.admin import QuoteArguments
from worker.arguments.base import check
from worker.dashboard.errors import BadRequest, check_service
from worker.dashboard.handlers import AdminHandler
from worker.dashboard.poller import Pools
from worker.dashboard.request_body import check_fields
from worker.errors import InvalidArguments
from worker.quotes.quote import Quote, QuoteRequest, quote_of


class QuoteHandler(AdminHandler):
    """`GET /api/admin/quote`: when jobs would start and end if they were enqueued now."""

    async def get(self) -> None:
        """Send the quote."""
        request = _read_query(self.query_values())
        state = await self.poller.fresh_state()
        view = state.services[request.service]

        async def quote(_: Pools) -> Quote:  # on the thread that owns the margins
            return quote_of(
                request,
                view.pool,
                waiting=view.queue.waiting if view.queue.known else None,
                models=get_settings().models.get(request.service, ()),
                margins=self.poller.margins.of(request.service),
            )

        self.send_json((await self.with_pools(quote)).as_json())


def _read_query(values: dict[str, str]) -> QuoteRequest:
    check_fields(values, tuple(QuoteArguments.model_fields))
    check_service(values.get("service", "groq"))
    try:
        arguments = check(QuoteArguments, (), values)
    except InvalidArguments as exc:
        raise BadRequest(f"{exc}.") from None
    return QuoteRequest(arguments.service, arguments.model, arguments.jobs, arguments.tokens)
