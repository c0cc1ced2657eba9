"""When the keys allow the Nth call from now, by a snapshot."""

from dataclasses import replace

import pytest

from worker.keypool import BlockView, BucketView, KeyView, PoolView
from worker.keypool.forecast import (
    DISABLED,
    PAUSED,
    WORKERS,
    CallCost,
    Estimate,
    Forecast,
    usual_tokens,
)

NOON_MS = 1_800_014_400_000  # 12:00 UTC
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def key(account: str, *buckets: BucketView, blocks: tuple[BlockView, ...] = ()) -> KeyView:
    counts = dict.fromkeys(
        ("in_flight", "calls", "accepted", "refused", "faults", "rejected", "tokens", "used_ms"), 0
    )
    return KeyView(
        id=account, label=account, variable="", account=account, state="ready", blocks=blocks,
        buckets=buckets, **counts,
    )  # fmt: skip


def bucket(dimension: str, limit: float, remaining: float, model: str = "m") -> BucketView:
    if dimension in {"epd", "epmo"}:
        return BucketView(model, dimension, limit, remaining, DAY_MS, DAY_MS // 2)
    return BucketView(model, dimension, limit, remaining, MINUTE_MS)


def block(left_ms: int | None, *, scope: str = "account_model", name: str = "m") -> BlockView:
    state = "disabled" if left_ms is None else "cooling"
    return BlockView(scope, name, state, "rate_limit", 0, left_ms)


def forecast(*keys: KeyView, **options: float) -> Forecast:
    cost = CallCost("m", tokens=options.pop("tokens", 0), emails=options.pop("emails", 0))
    return Forecast(PoolView("groq", NOON_MS, keys), cost, **options)


def test_calls_use_what_is_left_at_once_and_then_what_refills() -> None:
    estimates = forecast(key("a", bucket("rpm", 60, 10)), key("b", bucket("rpm", 120, 0)))
    assert estimates.call(10) == Estimate(0.0)
    later = estimates.call(40)
    assert (later.in_s, later.limited_by) == (pytest.approx(10, rel=0.01), "rpm")


def test_the_tightest_of_several_limits_decides() -> None:
    limits = bucket("rpm", 600, 600), bucket("tpm", 6_000, 0)
    slow = forecast(key("a", *limits), tokens=100).call(60)
    assert (slow.in_s, slow.limited_by) == (pytest.approx(60, rel=0.01), "tpm")
    assert forecast(key("a", *limits), tokens=0).call(600).in_s == 0


def test_a_resting_key_counts_from_the_end_of_its_rest_and_a_disabled_one_never() -> None:
    rests = key("a", bucket("rpm", 60, 5), blocks=(block(20_000),))
    out = key("b", bucket("rpm", 60, 60), blocks=(block(None, scope="key", name=""),))
    estimate = forecast(rests, out).call(1)
    assert (estimate.in_s, estimate.limited_by) == (pytest.approx(20, rel=0.01), "rate_limit")
    assert forecast(out).call(1) == Estimate(None, "no key")


@pytest.mark.parametrize(("scope", "named"), [("host", PAUSED), ("key", DISABLED)])
def test_a_block_that_a_person_made_is_named_and_its_reason_is_not_quoted(
    scope: str, named: str
) -> None:
    for_a_time = replace(block(20_000, scope=scope, name=""), disabled_by="ann", reason="lunch")
    estimate = forecast(key("a", bucket("rpm", 60, 5), blocks=(for_a_time,))).call(1)
    assert (estimate.in_s, estimate.limited_by) == (pytest.approx(20, rel=0.01), named)
    for_good = replace(for_a_time, left_ms=None)
    estimate = forecast(key("a", bucket("rpm", 60, 5), blocks=(for_good,))).call(1)
    assert estimate == Estimate(None, PAUSED if scope == "host" else "no key")


def test_a_rest_of_another_model_delays_nothing_and_keys_of_an_account_share_its_limits() -> None:
    other = block(20_000, name="n")
    shared = [key("a", bucket("rpm", 60, 5), blocks=(other,)) for _ in range(2)]
    assert forecast(*shared).calls_within(0) == 5


def test_a_quota_of_a_day_is_full_again_at_midnight() -> None:
    estimate = forecast(key("a", bucket("epd", 100, 0)), emails=2).call(50)
    assert (estimate.in_s, estimate.limited_by) == (pytest.approx(43_200, rel=0.01), "epd")
    assert forecast(key("a", bucket("epd", 100, 0)), emails=2).call(51).in_s == pytest.approx(
        43_200 + 86_400, rel=0.01
    )


def test_if_the_keys_have_room_the_workers_limit() -> None:
    estimates = forecast(key("a", bucket("rpm", 600, 600)), workers_per_s=5.0)
    assert estimates.call(100) == Estimate(20.0, WORKERS)
    assert forecast(key("a", bucket("rpm", 60, 0)), workers_per_s=5.0).call(60).limited_by == "rpm"


@pytest.mark.parametrize(
    ("dimension", "counted"),
    [
        *((name, 9.0) for name in ("tpm", "tpd")),
        ("itpm", 2.0),
        ("otpm", 3.0),
        *((name, 4.0) for name in ("epd", "epmo")),
        *((name, 1.0) for name in ("rps", "rpm", "rpd")),
    ],
)
def test_a_call_counts_against_each_limit_in_its_own_unit(dimension: str, counted: float) -> None:
    cost = CallCost("m", tokens=9.0, input_tokens=2.0, output_tokens=3.0, emails=4.0)
    assert cost.in_dimension(dimension) == counted


# What is left of a key's limits, when it opens, and how many calls within how many seconds.
@pytest.mark.parametrize(
    ("limits", "opens_s", "calls"),
    [
        ((bucket("rpm", 60, 10),), 0, {0: 10, 5: 15, 100: 110}),
        ((bucket("rpm", 60, -5),), 0, {0: 0, 5: 0, 6: 1}),  # reserved ahead
        # the refill beyond the limit is lost before the first call may be made
        ((bucket("rpm", 60, 10),), 20, {19.9: 0, 20: 30, 30: 40}),
        ((bucket("rpm", 60, 50),), 20, {20: 60, 30: 70}),
        ((bucket("epd", 100, 7),), 0, {0: 7, 43_199: 7, 43_200: 107, 129_599: 107, 129_600: 207}),
        # a quota of a month counts as full again each day
        ((bucket("epmo", 100, 7),), 0, {43_200: 107, 129_600: 207}),
        ((bucket("rpm", 60, 10), bucket("rpd", 50, 9)), 0, {0: 9, 5: pytest.approx(13.17, 0.01)}),
        ((bucket("rpm", 60, 10, model="n"),), 0, {0: float("inf")}),  # no limit is known
    ],
)
def test_the_calls_that_may_start_within_a_time_are_counted(
    limits: tuple[BucketView, ...], opens_s: float, calls: dict[float, float]
) -> None:
    blocks = (block(round(opens_s * 1000)),) if opens_s else ()
    estimates = forecast(key("a", *limits, blocks=blocks), emails=1)
    assert {seconds: estimates.calls_within(seconds) for seconds in calls} == calls


def test_tokens_beyond_a_limit_are_lost_while_a_key_rests() -> None:
    rests = key("a", bucket("tpm", 6_000, 5_000), blocks=(block(20_000),))
    estimates = forecast(rests, tokens=100)  # one call a second
    assert [estimates.calls_within(seconds) for seconds in (19.9, 20, 30)] == [0, 60, 70]


def test_the_key_of_an_account_that_opens_first_counts() -> None:
    limits = (bucket("rpm", 60, 0),)
    later, sooner, never = (
        key("a", *limits, blocks=(replace(block(left_ms), reason=reason),))
        for left_ms, reason in ((30_000, "later"), (20_000, "sooner"), (None, "never"))
    )
    estimates = forecast(later, sooner, never)
    assert estimates.calls_within(19.9) == 0
    assert estimates.calls_within(20) == 20
    assert estimates.call(1).limited_by == "sooner"
    both = key("b", *limits, blocks=(block(20_000), replace(block(30_000), reason="last")))
    assert forecast(both).call(1).limited_by == "last"


@pytest.mark.parametrize(
    ("scope", "name", "covers"),
    [
        *((scope, "x", True) for scope in ("key", "account", "host")),
        *((scope, "m", True) for scope in ("account_model", "key_resource", "model")),
        *((scope, "", True) for scope in ("account_model", "key_resource", "model")),
        *((scope, "x", False) for scope in ("account_model", "key_resource", "model")),
    ],
)
def test_a_rest_counts_for_the_models_that_it_covers(
    scope: str, name: str, *, covers: bool
) -> None:
    rests = block(9_000, scope=scope, name=name)
    estimates = forecast(key("a", bucket("rpm", 60, 5), blocks=(rests,)))
    assert estimates.calls_within(0) == (0 if covers else 5)


def test_the_limit_that_holds_most_accounts_back_is_named() -> None:
    slow, quota = bucket("tpm", 60, 0), bucket("epd", 1, 0)
    keys = [key("a", slow), key("b", slow, bucket("rpm", 600, 600)), key("c", quota)]
    assert forecast(*keys, tokens=1, emails=1).call(1).limited_by == "tpm"
    assert forecast(key("a")).call(10**9) == Estimate(0.0), "no limit is known"
    assert forecast().call(1) == Estimate(None, "no key")


def test_no_estimate_goes_beyond_a_week() -> None:
    week_s = 7 * 86_400
    by_workers = forecast(key("a", bucket("rpm", 60, 0)), workers_per_s=1e-9)
    assert by_workers.call(week_s).in_s is not None
    assert by_workers.call(week_s + 1) == Estimate(None, "rpm"), "whatever the workers do"
    by_keys = forecast(key("a", bucket("rpm", 60, 0)))
    assert by_keys.call(week_s).in_s == pytest.approx(week_s, rel=0.001)


@pytest.mark.parametrize(
    ("number", "most_s"), [*((number, 0.01) for number in range(1, 10)), (100_000, 12.0)]
)
def test_an_estimate_is_exact_to_a_hundredth_of_a_second_or_a_ten_thousandth(
    number: int, most_s: float
) -> None:
    estimate = forecast(key("a", bucket("rpm", 60, 0))).call(number)
    assert estimate.in_s is not None
    assert 0 <= estimate.in_s - number <= most_s


def test_the_slower_of_keys_and_workers_decides_and_an_equal_time_is_the_keys() -> None:
    keys = key("a", bucket("rpm", 60, 10))
    assert forecast(keys, workers_per_s=2.0).call(10) == Estimate(5.0, WORKERS)
    assert forecast(keys, workers_per_s=0.0).call(10) == Estimate(0.0)
    assert forecast(keys, workers_per_s=100.0).call(40).limited_by == "rpm"


def test_usual_tokens_are_those_of_the_average_accepted_call() -> None:
    keys = [
        replace(key(name), accepted=accepted, tokens=tokens)
        for name, accepted, tokens in (("a", 3, 900), ("b", 1, 100), ("c", 0, 0))
    ]
    assert usual_tokens(PoolView("groq", 0, tuple(keys))) == 250
    assert usual_tokens(PoolView("groq", 0, (keys[2],))) == 0
