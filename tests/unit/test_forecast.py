"""When the keys allow the Nth call from now, from a snapshot."""

from dataclasses import replace

import pytest

from worker.keypool import BlockView, BucketView, KeyView, PoolView
from worker.keypool.forecast import DISABLED, PAUSED, WORKERS, CallCost, Estimate, Forecast

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


def test_what_is_left_is_called_at_once_and_the_rest_as_it_refills() -> None:
    found = forecast(key("a", bucket("rpm", 60, 10)), key("b", bucket("rpm", 120, 0)))
    assert found.call(10) == Estimate(0.0)
    later = found.call(40)
    assert (later.in_s, later.limited_by) == (pytest.approx(10, rel=0.01), "rpm")


def test_the_tightest_of_several_limits_decides() -> None:
    limits = bucket("rpm", 600, 600), bucket("tpm", 6_000, 0)
    slow = forecast(key("a", *limits), tokens=100).call(60)
    assert (slow.in_s, slow.limited_by) == (pytest.approx(60, rel=0.01), "tpm")
    assert forecast(key("a", *limits), tokens=0).call(600).in_s == 0


def test_a_key_that_rests_counts_from_its_end_on_and_a_disabled_one_never() -> None:
    rests = key("a", bucket("rpm", 60, 5), blocks=(block(20_000),))
    out = key("b", bucket("rpm", 60, 60), blocks=(block(None, scope="key", name=""),))
    found = forecast(rests, out).call(1)
    assert (found.in_s, found.limited_by) == (pytest.approx(20, rel=0.01), "rate_limit")
    assert forecast(out).call(1) == Estimate(None, "no key")


@pytest.mark.parametrize(("scope", "named"), [("host", PAUSED), ("key", DISABLED)])
def test_what_a_person_did_is_named_and_not_quoted(scope: str, named: str) -> None:
    for_a_time = replace(block(20_000, scope=scope, name=""), disabled_by="ann", reason="lunch")
    found = forecast(key("a", bucket("rpm", 60, 5), blocks=(for_a_time,))).call(1)
    assert (found.in_s, found.limited_by) == (pytest.approx(20, rel=0.01), named)
    for_good = replace(for_a_time, left_ms=None)
    found = forecast(key("a", bucket("rpm", 60, 5), blocks=(for_good,))).call(1)
    assert found == Estimate(None, PAUSED if scope == "host" else "no key")


def test_a_rest_of_another_model_delays_nothing_and_keys_of_an_account_share_its_limits() -> None:
    other = block(20_000, name="n")
    shared = [key("a", bucket("rpm", 60, 5), blocks=(other,)) for _ in range(2)]
    assert forecast(*shared).calls_within(0) == 5


def test_a_quota_of_a_day_is_full_again_at_midnight() -> None:
    found = forecast(key("a", bucket("epd", 100, 0)), emails=2).call(50)
    assert (found.in_s, found.limited_by) == (pytest.approx(43_200, rel=0.01), "epd")
    assert forecast(key("a", bucket("epd", 100, 0)), emails=2).call(51).in_s == pytest.approx(
        43_200 + 86_400, rel=0.01
    )


def test_where_the_keys_have_room_the_workers_limit() -> None:
    found = forecast(key("a", bucket("rpm", 600, 600)), workers_per_s=5.0)
    assert found.call(100) == Estimate(20.0, WORKERS)
    assert forecast(key("a", bucket("rpm", 60, 0)), workers_per_s=5.0).call(60).limited_by == "rpm"
