"""A report of usage: the allowed queries, the sums, and the format."""

from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.prices import ModelPrice, Prices
from tests.unit.usage_counts import counts
from worker.usage import COUNTS, MEASURES, OTHERS, Counted, Series, Unit, UsageQuery, UsageReport
from worker.usage.series import packed, unpacked

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
NOW_MS = 1_800_014_400_000 + 754_321  # 12:12:34.321 UTC
NO_MODEL = Series("resend", "k2", "k2")


@pytest.mark.parametrize(
    ("range_", "step", "step_ms", "unit", "range_ms"),
    [
        ("hour", "", MINUTE_MS, Unit.MINUTE, HOUR_MS),
        ("hour", "ten_minutes", 10 * MINUTE_MS, Unit.MINUTE, HOUR_MS),
        ("day", "", 10 * MINUTE_MS, Unit.MINUTE, DAY_MS),
        ("day", "minute", MINUTE_MS, Unit.MINUTE, DAY_MS),
        ("day", "hour", HOUR_MS, Unit.MINUTE, DAY_MS),
        ("week", "", HOUR_MS, Unit.HOUR, 7 * DAY_MS),
        ("week", "day", DAY_MS, Unit.HOUR, 7 * DAY_MS),
        ("90d", "", DAY_MS, Unit.HOUR, 90 * DAY_MS),
        ("90d", "hour", HOUR_MS, Unit.HOUR, 90 * DAY_MS),
    ],
)
def test_a_range_has_whole_steps_and_ends_with_the_present_one(
    range_: str, step: str, *, step_ms: int, unit: Unit, range_ms: int
) -> None:
    query = UsageQuery(range_, step)
    assert (query.step_ms, query.unit) == (step_ms, unit)
    first_ms = query.first_ms(NOW_MS)
    assert first_ms % step_ms == 0
    last_ms = first_ms + range_ms - step_ms
    assert last_ms <= NOW_MS < last_ms + step_ms
    assert unit.ms == {Unit.MINUTE: MINUTE_MS, Unit.HOUR: HOUR_MS}[unit]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"range": "year"}, "range must be one of: hour, day, week, 90d."),
        (
            {"range": "week", "step": "minute"},
            "step must be one of these for the range week: hour, day.",
        ),
        ({"by": ("owner",)}, "by must be one or several of: service, key, account, model, tenant."),
        (
            {"only": (("owner", "x"),)},
            "by must be one or several of: service, key, account, model, tenant.",
        ),
        *(
            (
                {"by": (mine,), "only": ((other, "x"),)},
                "A tenant's usage is not kept by key: leave out tenant, or key and account.",
            )
            for mine, other in (("tenant", "key"), ("key", "tenant"), ("account", "tenant"))
        ),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused_with_what_to_change(
    query: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=r"must be|not kept") as caught:
        UsageQuery(**query)
    assert str(caught.value) == sentence


def test_a_query_is_read_from_the_texts_of_a_request() -> None:
    assert UsageQuery.of({}) == UsageQuery("day", "", ("service",), ())
    assert UsageQuery.of(
        {"range": "week", "step": "day", "by": "model,service,model", "model": "m", "key": ""}
    ) == UsageQuery("week", "day", ("service", "model"), (("model", "m"),))


OF_KEY, OF_TENANT = Series("groq", "k1", "a", "m"), Series("groq", model="m", tenant="acme")


@pytest.mark.parametrize(
    ("query", "of_key", "of_tenant"),
    [
        ({}, True, False),
        ({"by": ("tenant",)}, False, True),
        ({"only": (("tenant", "acme"),)}, False, True),
        ({"only": (("tenant", "other"),)}, False, False),
        ({"only": (("key", "k1"), ("model", "m"))}, True, False),
        ({"only": (("key", "k1"), ("model", "n"))}, False, False),
    ],
)
def test_calls_count_once_for_their_keys_or_once_for_their_tenants(
    query: dict[str, Any], *, of_key: bool, of_tenant: bool
) -> None:
    usage_query = UsageQuery(**query)
    assert (usage_query.shows(OF_KEY), usage_query.shows(OF_TENANT)) == (of_key, of_tenant)


class Store:
    """A store with scripted counts."""

    def __init__(self, *counted: Counted) -> None:
        self.counted, self.read_span = counted, dict[str, Any]()

    async def now_ms(self) -> int:
        return NOW_MS

    async def read(
        self, unit: Unit, *, wanted: Callable[[Series], bool], **span: int
    ) -> AsyncIterator[Counted]:
        self.read_span = {"unit": unit, **span}
        for counted in self.counted:
            if wanted(counted.series):
                yield counted


def used(**some: int) -> dict[str, int]:
    return {name: some.get(name, 0) for name in COUNTS}


async def report(query: UsageQuery, *counted: Counted, prices: Prices | None) -> UsageReport:
    store = Store(*counted)
    made = await UsageReport.make(cast("Any", store), query, prices)
    first_ms = query.first_ms(NOW_MS)
    span = {"first_ms": first_ms, "last_ms": NOW_MS, "step_ms": query.step_ms}
    assert store.read_span == span | {"unit": query.unit}
    return made


EARLY_MS, LATE_MS = 1_800_010_000_000, 1_800_010_600_000
SUMS = {
    "refused": 1,
    "faults": 2,
    "rejected": 3,
    "prompt_tokens": 10,
    "cached_tokens": 4,
    "output_tokens": 6,
    "deferrals": 1,
    "waited_ms": 70,
}
COUNTED = (
    Counted(LATE_MS, OF_KEY, counts(calls=1)),
    Counted(EARLY_MS, NO_MODEL, counts(calls=5, emails=3)),
    Counted(
        EARLY_MS,
        OF_KEY,
        counts(calls=9, **SUMS),
    ),
    Counted(EARLY_MS, Series("groq", "k3", "a", "m"), counts(calls=2, prompt_tokens=2)),
    Counted(EARLY_MS, OF_TENANT, counts(calls=99)),  # the same calls, counted for their tenant
)


async def test_a_report_adds_up_by_step_and_group_and_prices_what_has_a_price() -> None:
    query = UsageQuery(by=("service", "key"))
    prices = Prices({("groq", "m"): ModelPrice(1.0, 0.5, 2.0)})
    as_json = (await report(query, *COUNTED, prices=prices)).as_json({"k1": "gsk_1…"})
    first = {"service": "groq", "key": "k1", "label": "gsk_1…"}
    third = {"service": "groq", "key": "k3", "label": ""}
    emails = {"service": "resend", "key": "k2", "label": ""}
    assert as_json == {
        "range": "day",
        "step_ms": 600_000,
        "first_ms": query.first_ms(NOW_MS),
        "now_ms": NOW_MS,
        "by": ["service", "key"],
        "only": {},
        "rows": [
            {"at_ms": EARLY_MS, **first, **used(calls=9, accepted=3, **SUMS), "cost_usd": 2e-05},
            {"at_ms": EARLY_MS, **third}
            | used(calls=2, accepted=2, prompt_tokens=2)
            | {"cost_usd": 2e-06},
            {"at_ms": EARLY_MS, **emails, **used(calls=5, accepted=5, emails=3), "cost_usd": None},
            {"at_ms": LATE_MS, **first, **used(calls=1, accepted=1), "cost_usd": 0.0},
        ],
        "totals": [
            first | used(calls=10, accepted=4, **SUMS) | {"cost_usd": 2e-05},
            emails | used(calls=5, accepted=5, emails=3) | {"cost_usd": None},
            third | used(calls=2, accepted=2, prompt_tokens=2) | {"cost_usd": 2e-06},
        ],
        "unpriced": ["resend"],
    }


async def test_without_prices_nothing_costs_and_nothing_is_called_unpriced() -> None:
    made = await report(UsageQuery(), *COUNTED, prices=None)
    assert {row.cost_usd for row in made.rows} == {None}
    assert made.unpriced == ()
    assert [row.group for row in made.totals] == [("groq",), ("resend",)]
    unpriced = await report(UsageQuery(), *COUNTED, prices=Prices())
    assert unpriced.unpriced == ("m", "resend")


async def test_the_csv_has_a_line_of_names_and_one_for_each_step_and_group() -> None:
    query = UsageQuery(by=("service", "key"))
    made = await report(query, *COUNTED[:2], prices=None)
    assert made.as_csv({"k1": "gsk_1…", "k2": "=1"}).splitlines() == [
        (
            "time,service,key,label,calls,accepted,refused,faults,rejected,prompt_tokens,cached_tokens,"
            "output_tokens,emails,deferrals,waited_ms,cost_usd"
        ),
        "2027-01-15T10:46:40Z,resend,k2,'=1,5,5,0,0,0,0,0,0,3,0,0,",
        "2027-01-15T10:56:40Z,groq,k1,gsk_1…,1,1,0,0,0,0,0,0,0,0,0,",
    ]


@pytest.mark.parametrize(
    ("series", "name", "others"),
    [
        (OF_KEY, '["key","groq","k1","a","m"]', '["key","groq","(others)","(others)","(others)"]'),
        (OF_TENANT, '["tenant","groq","acme","m"]', '["tenant","groq","(others)","(others)"]'),
        (Series("groq", model="ü"), '["key","groq","","","ü"]', None),  # of a deferral
    ],
)
def test_a_series_is_read_as_it_was_named(series: Series, name: str, others: str | None) -> None:
    assert (series.name, Series.of(name)) == (name, series)
    if others is not None:
        assert series.others.name == others
        assert OTHERS in others


def test_counts_are_written_in_base_36_without_what_is_zero() -> None:
    assert packed(counts(calls=35, faults=36, cached_tokens=1)) == "z,,10,,,1"
    assert packed(counts()) == ""
    assert unpacked("") == counts()
    later = ",".join("1" * (len(MEASURES) + 1))  # of a version that counts more measures
    assert unpacked(later) == (1,) * len(MEASURES)


@given(st.tuples(*(st.integers(0, 10**15) for _ in MEASURES)))
def test_counts_are_read_as_they_were_written(numbers: tuple[int, ...]) -> None:
    assert unpacked(packed(numbers)) == numbers
