"""The usage that a process counts, and when it writes it."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.pages import ROOT
from tests.unit.usage_counts import counts
from worker.usage import OTHERS, Series, counter
from worker.usage.counter import EVERY_S, NO_USAGE, UsageCounter
from worker.usage.store import MOST_SERIES

A, B, C = (Series("groq", "k", "a", model) for model in "abc")
JOB: ContextVar[str] = ContextVar("JOB", default="none")


class Store:
    """Accepts reports, or fails as Redis does."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[Series, tuple[int, ...]]]] = []
        self.fails = False
        self.jobs: set[str] = set()

    async def add(self, counted: Any, *, writer: str, number: int) -> bool:
        assert writer
        self.reports.append((number, counted))
        self.jobs.add(JOB.get())
        if self.fails:
            raise RedisConnectionError
        return True


@pytest.fixture
def store() -> Store:
    return Store()


def counting(store: Store, every_s: float = 60.0) -> UsageCounter:
    return UsageCounter(store, every_s=every_s)  # type: ignore[arg-type]


async def test_counts_are_added_up_until_their_time_or_the_end(store: Store) -> None:
    usage = counting(store)
    for _ in range(3):
        usage.count(A, calls=1, waited_ms=5)
        await asyncio.sleep(0)
    usage.count(B, emails=2)
    assert store.reports == []
    await usage.close()
    assert store.reports == [
        (1, {A: counts(calls=3, waited_ms=15), B: counts(emails=2)}),
    ]
    usage.count(A, calls=1)
    await usage.close()
    assert store.reports[1:] == [(2, {A: counts(calls=1)})]


async def test_a_report_that_redis_did_not_take_is_sent_again_with_its_number_first(
    store: Store,
) -> None:
    usage, store.fails = counting(store), True
    usage.count(A, calls=1)
    await usage.close()
    first = (1, {A: counts(calls=1)})
    assert store.reports == [first], "the report is sent only once, because the process ends"
    usage.count(A, calls=2)
    store.fails = False
    await usage.close()
    assert store.reports == [first, first, (2, {A: counts(calls=2)})]


async def test_series_beyond_the_bound_are_counted_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counter, "_MOST_SERIES", 2)
    usage = counting(store)
    for series in (A, B, C, A):
        usage.count(series, calls=1)
    usage.count(Series("groq", model="m", tenant="t"), calls=1)
    await usage.close()
    [(_, counts_of)] = store.reports
    others = (
        Series("groq", OTHERS, OTHERS, OTHERS),
        Series("groq", model=OTHERS, tenant=OTHERS),
    )
    assert {series: counted[0] for series, counted in counts_of.items()} == {
        A: 2, B: 1, others[0]: 1, others[1]: 1,
    }  # fmt: skip


async def test_reports_are_written_outside_the_context_of_any_job(store: Store) -> None:
    JOB.set("job-1")
    usage = counting(store)
    usage.count(A, calls=1)
    await usage.close()
    assert store.jobs == {"none"}


def test_a_counter_that_counts_nothing_needs_no_loop() -> None:
    NO_USAGE.count(A, calls=1)
    asyncio.run(NO_USAGE.close())


def test_the_page_says_how_often_a_worker_writes_and_how_much_is_kept() -> None:
    page = " ".join((ROOT / "docs/usage.md").read_text(encoding="utf-8").split())
    every = ("no", "one", "two", "three", "four", "five")[int(EVERY_S)]
    assert f"writes every {every} seconds" in page
    assert f"place for {MOST_SERIES} pairs of a key and a model" in page
