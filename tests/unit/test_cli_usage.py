"""The request of the command `usage`, and its output."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.unit.cli_runner import KEYS, run_command, use_no_redis
from worker.cli import chosen_key, usage
from worker.usage import MEASURES, Row, UsageQuery, UsageReport


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    use_no_redis(monkeypatch, chosen_key, usage)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers each report of the usage; `queries` has the requests."""
    pools = {
        service: SimpleNamespace(keys=(key,), service=service) for service, key in KEYS.items()
    }
    usage_made = SimpleNamespace(queries=[], totals=(), unpriced=())

    async def make(store: Any, query: UsageQuery, prices: Any) -> UsageReport:
        usage_made.queries.append((query.range, query.step, query.by, query.only, prices))
        return UsageReport(query, 0, 1, (), usage_made.totals, usage_made.unpriced)

    monkeypatch.setattr(usage, "pools_for_tools", lambda _: pools)
    monkeypatch.setattr(usage, "read_prices", lambda: "the prices")
    monkeypatch.setattr(usage.UsageReport, "make", make)
    return usage_made


def used(**counts: int) -> Row:
    row = Row(("groq", KEYS["groq"].id), None)
    row.add([(dict.fromkeys(MEASURES, 0) | counts)[name] for name in MEASURES], 0.25)
    return row


def test_usage_is_printed_as_a_table_as_csv_and_as_json(reported: Any) -> None:
    assert run_command(usage.usage).output == "nothing was used in this time\n"
    reported.totals, reported.unpriced = (used(calls=1_500, accepted=3),), ("model-x", "y")
    head, line, unpriced = run_command(usage.usage).output.splitlines()
    assert head.split() == ["service", "key", "calls", "wait", "USD"]
    label = KEYS["groq"].label.rstrip(".")
    assert line.split() == ["groq", label, "1,500", "0.0", "s", "0.2500"]
    assert unpriced == "without a price: model-x, y"
    report = UsageReport(
        UsageQuery(by=("service", "key")), 0, 1, (), reported.totals, ("model-x", "y")
    )
    labels = {key.id: key.label for key in KEYS.values()}
    assert (
        run_command(usage.usage, "--json").output
        == json.dumps(report.as_json(labels), indent=2) + "\n"
    )
    as_csv = run_command(usage.usage, "--csv")
    assert as_csv.stdout_bytes.decode() == report.as_csv(labels)
    assert {query[0] for query in reported.queries} == {"day"}


def test_the_options_make_the_query_for_the_usage(reported: Any) -> None:
    run_command(
        usage.usage, "--range", "week", "--by", "model", "--service", "groq", "--step", "hour",
        "--key", "GROQ_API_KEY",
    )  # fmt: skip
    only = (("service", "groq"), ("key", KEYS["groq"].id))
    [(span, step, by, selected, prices)] = reported.queries
    assert (span, step, by, prices) == ("week", "hour", ("service", "model"), "the prices")
    assert sorted(selected) == sorted(only)


def test_the_usage_of_a_key_that_is_gone_is_selected_by_its_id(reported: Any) -> None:
    run_command(usage.usage, "--key", "0123456789ab")
    run_command(usage.usage, "--key", "(others)")
    assert [dict(query[3])["key"] for query in reported.queries] == ["0123456789ab", "(others)"]
    for typed in ("0123456789abc", "0123456789a"):
        result = CliRunner().invoke(usage.usage, ["--key", typed])
        assert f"no key here has the id, label or variable '{typed}'" in result.output


def test_prices_or_a_step_that_cannot_be_used_end_the_command(
    reported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_command(usage.usage, "--by", "colour")
    assert (result.exit_code, result.output[:7]) == (1, "Error: ")

    def broken() -> None:
        raise ValueError("keywheel-prices.toml, line 3: no number")

    monkeypatch.setattr(usage, "read_prices", broken)
    result = run_command(usage.usage)
    assert result.output == "Error: keywheel-prices.toml, line 3: no number\n"
    assert reported.queries == []
