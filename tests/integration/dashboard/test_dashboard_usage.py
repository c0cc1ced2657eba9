"""The usage endpoint, checked against `docs/openapi.yaml`."""

import csv
from io import StringIO
from pathlib import Path

import pytest

from tests.integration.dashboard.dashboard_site import LOGIN, Serve, Site
from worker.usage import MEASURES, Series, UsageStore

USAGE = "/api/admin/usage"
PRICES = """
[groq.big]
prompt = 1.0
cached = 0.5
output = 4.0
[resend]
email = 0.001
"""


async def used(site: Site) -> tuple[str, str]:
    """Count some usage; return the ids of the two keys that had it."""
    first, second = (key.id for key in site.keys["groq"][:2])
    counted = {
        Series("groq", first, "org_1", "big"): {
            "calls": 3, "refused": 1, "prompt_tokens": 1_000, "cached_tokens": 400,
            "output_tokens": 100, "waited_ms": 900,
        },
        Series("groq", second, "org_2", "small"): {"calls": 1, "output_tokens": 7},
        Series("groq", model="big"): {"deferrals": 2},
        Series("resend", site.keys["resend"][0].id, "team_1"): {"calls": 1, "emails": 50},
        Series("groq", model="big", tenant="=acme"): {"calls": 2},
    }  # fmt: skip
    store = UsageStore(site.redis, namespace="kw")
    values = {
        series: tuple(its.get(name, 0) for name in MEASURES) for series, its in counted.items()
    }
    await store.add(values, writer="test", number=1)
    return first, second


async def test_usage_is_grouped_filtered_and_priced(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    site = await serve()
    first, second = await used(site)

    async def totals(**query: str) -> dict[str, dict[str, object]]:
        answer = await site.client.get(USAGE, params=query, auth=LOGIN)
        assert answer.status_code == 200, answer.text
        usage = answer.json()
        assert len(usage["rows"]) == len(usage["totals"]), "all usage is in one step of the report"
        group = usage["by"][-1]
        return {row[group]: row for row in usage["totals"]}

    plain = await totals()
    assert {name: row["cost_usd"] for name, row in plain.items()} == {"groq": None, "resend": None}
    assert (plain["groq"]["calls"], plain["groq"]["accepted"]) == (4, 3)
    assert (plain["groq"]["deferrals"], plain["resend"]["emails"]) == (2, 50)
    (tmp_path / "keywheel-prices.toml").write_text(PRICES)
    keys = await totals(by="key", service="groq", range="hour")
    assert {key: row["cost_usd"] for key, row in keys.items()} == {
        first: pytest.approx((600 * 1.0 + 400 * 0.5 + 100 * 4.0) / 1_000_000),
        second: None,
        "": 0,
    }
    assert keys[first]["label"] == site.keys["groq"][0].label
    assert keys[first]["waited_ms"] == 900
    assert (await totals(by="account", range="week"))["team_1"]["cost_usd"] == 0.05
    assert {*await totals(by="tenant", range="90d")} == {"=acme"}
    assert {*await totals(by="model", key=first, step="hour")} == {"big"}
    assert {*await totals(by="model", tenant="=acme")} == {"big"}
    priced = await site.client.get(USAGE, params={"by": "key"}, auth=LOGIN)
    assert (priced.json()["priced"], priced.json()["unpriced"]) == (True, ["small"])
    (tmp_path / "keywheel-prices.toml").write_text("[groq]\nbig = 3")
    usage = (await site.client.get(USAGE, auth=LOGIN)).json()
    assert (usage["priced"], usage["totals"][0]["cost_usd"]) == (False, None)
    assert 'keywheel-prices.toml: [groq."big"] must have prompt and output' in usage["problem"]


async def test_usage_as_csv_has_no_cell_that_a_spreadsheet_takes_for_a_formula(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    site = await serve()
    first, _ = await used(site)
    answer = await site.client.get(
        USAGE, params={"format": "csv", "by": "key,model", "range": "hour"}, auth=LOGIN
    )
    assert answer.headers["Content-Disposition"] == 'attachment; filename="keywheel-usage-hour.csv"'
    rows = list(csv.DictReader(StringIO(answer.text)))
    assert len(rows) == 4
    [row] = [row for row in rows if row["key"] == first]
    assert (row["label"], row["model"], row["calls"]) == (site.keys["groq"][0].label, "big", "3")
    assert row["time"].endswith(":00Z")
    assert row["cost_usd"] == ""
    answer = await site.client.get(USAGE, params={"format": "csv", "by": "tenant"}, auth=LOGIN)
    assert [row["tenant"] for row in csv.DictReader(StringIO(answer.text))] == ["'=acme"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_invalid_query_is_refused_with_a_sentence(serve: Serve) -> None:
    site = await serve()
    wrong = {
        "tenant=" + "x" * 201: (400, "Each value must be plain text of 1 to 200 characters."),
        "tenant=a%0Ab": (400, "Each value must be plain text of 1 to 200 characters."),
        "service=gorq": (404, "There is no such service; choose one of: groq, resend."),
        "format=xml": (400, "format must be one of: json, csv."),
        "range=1y": (400, ""),
        "tennant=acme": (400, ""),
    }
    answers = {}
    for query, (_, words) in wrong.items():
        answer = await site.client.get(f"{USAGE}?{query}", auth=LOGIN)
        answers[query] = answer.status_code, answer.json()["message"] if words else ""
    assert answers == wrong
    for query in ("tenant=" + "x" * 200, "service=", "service=resend", "format=json"):
        answer = await site.client.get(f"{USAGE}?{query}", auth=LOGIN)
        assert answer.status_code == 200, query
