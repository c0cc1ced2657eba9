"""The dashboard's quotes, and when a waiting job starts."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from tests.unit.unstarted_handlers import handler_of
from worker.dashboard import job_start, quotes
from worker.dashboard.state import QueueView
from worker.keypool.margins import Margins


@pytest.mark.parametrize(("known", "waiting"), [(True, 6), (False, None)])
async def test_a_quote_counts_waiting_jobs_if_the_broker_is_known(
    monkeypatch: pytest.MonkeyPatch, *, known: bool, waiting: int | None
) -> None:
    quotes_made: list[Any] = []
    queue = QueueView("ai", ready=1, deferred=2, held=3, known=known)
    state = SimpleNamespace(services={"groq": SimpleNamespace(pool="the pool", queue=queue)})
    margins = SimpleNamespace(of=lambda service: f"the margins of {service}")

    def quote_of(request: Any, pool: Any, **options: Any) -> Any:
        quotes_made.append((request.service, request.jobs, pool, options))
        return SimpleNamespace(as_json=lambda: {"jobs": 2})

    async def with_pools(work: Any) -> Any:
        return await work({})

    settings = SimpleNamespace(models={"groq": ("m",)})
    monkeypatch.setattr(quotes, "quote_of", quote_of)
    monkeypatch.setattr(quotes, "get_settings", lambda: settings)
    handler = handler_of(
        quotes.QuoteHandler,
        {"service": "groq", "jobs": "2"},
        fresh_state=AsyncMock(return_value=state),
        with_pools=with_pools,
        margins=margins,
    )
    await handler.get()
    assert handler.sent == [{"jobs": 2}]
    options = {"waiting": waiting, "models": ("m",), "margins": "the margins of groq"}
    assert quotes_made == [("groq", 2, "the pool", options)]


# A waiting job's place, whether it was fetched, and the number of calls until its start.
@pytest.mark.parametrize(
    ("place", "is_fetched", "number"),
    [(1, False, 4), (3, False, 6), (None, True, 3), (None, False, 6)],
)
def test_a_job_starts_after_those_before_it(
    monkeypatch: pytest.MonkeyPatch, *, place: int | None, is_fetched: bool, number: int
) -> None:
    estimates: list[int] = []

    def estimate(_: Any, count: int, **about: Any) -> Any:
        estimates.append(count)
        assert (about["model"], about["tokens"]) == ("m", 9)
        return SimpleNamespace(in_s=2.5, limited_by="rpm")

    monkeypatch.setattr(job_start, "estimate", estimate)
    monkeypatch.setattr(job_start, "usual_tokens", lambda _: 9)
    monkeypatch.setattr(job_start.time, "time", lambda: 100.0)
    margins: Any = SimpleNamespace(within_s=lambda in_s: in_s * 2)
    queue = QueueView("ai", ready=1, deferred=2, held=3)
    service: Any = SimpleNamespace(queue=queue, pool="pool")
    start = job_start.start_of(service, margins, place=place, model="m", is_fetched=is_fetched)
    assert estimates == [number]
    assert start.as_json() == {
        "place": place, "expected_start_ms": 102_500, "start_by_ms": 105_000, "limited_by": "rpm"
    }  # fmt: skip


def test_the_start_of_a_job_is_unknown_if_the_broker_or_the_keys_do_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    estimates: list[int] = []

    def estimate(_: Any, count: int, **__: Any) -> Any:
        estimates.append(count)
        return SimpleNamespace(in_s=None, limited_by="no_key")

    monkeypatch.setattr(job_start, "estimate", estimate)
    monkeypatch.setattr(job_start, "usual_tokens", lambda _: 9)
    known: Any = SimpleNamespace(queue=QueueView("ai"), pool="pool")
    start = job_start.start_of(known, Margins(), place=None, model="", is_fetched=False)
    assert (start.expected_start_ms, start.start_by_ms, start.limited_by) == (None, None, "no_key")
    assert estimates == [1]
    silent: Any = SimpleNamespace(queue=QueueView("ai", known=False), pool="pool")
    unknown = job_start.start_of(silent, Margins(), place=5, model="", is_fetched=False)
    assert unknown == job_start.JobStart(5)
