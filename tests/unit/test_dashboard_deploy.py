"""Alert rules and Grafana dashboard: they name only metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any, cast

import yaml
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest

from worker.dashboard.deferrals import Deferrals
from worker.dashboard.metrics import registry_of
from worker.dashboard.poller import Poller
from worker.dashboard.state import DashboardState, QueueView, ServiceView
from worker.keypool import KeyView, PoolView
from worker.keypool.snapshot import BucketView

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "keywheel.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "keywheel.json").read_text())


class Seen:
    """A poller that has seen one key."""

    def __init__(self) -> None:
        bucket = BucketView("m", "rpm", 30, 10, 60_000)
        counts = dict.fromkeys(
            (
                "in_flight",
                "calls",
                "accepted",
                "refused",
                "faults",
                "rejected",
                "tokens",
                "used_ms",
            ),
            1,
        )
        key = KeyView(
            "0" * 12, "gsk_x...", "GROQ_API_KEY", "a", "ready", (), buckets=(bucket,), **counts
        )
        self.state = DashboardState(
            {"groq": ServiceView(PoolView("groq", 0, (key,)), QueueView("ai"), (), 0.0)}
        )


def exposed() -> set[str]:
    registry: CollectorRegistry = registry_of(cast("Poller", Seen()))
    Deferrals(registry, Celery())
    return set(re.findall(r"^(keywheel_\w+)", generate_latest(registry).decode(), re.MULTILINE))


def named(queries: list[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"\bkeywheel_\w+", query)}


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_rules_name_only_metrics_that_exist() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    names = named([rule["expr"] for rule in rules])
    assert names
    scaled = yaml.safe_load((DEPLOY / "kubernetes/keda/scaledobject.yaml").read_text())
    names |= named([scaled["spec"]["triggers"][0]["metadata"]["query"]])
    assert names <= exposed()
    assert all({"summary", "description"} <= rule["annotations"].keys() for rule in rules)


def test_the_dashboard_names_only_metrics_that_exist_and_shows_nearly_all() -> None:
    unseen = {
        name
        for name in exposed() - named(queries())
        if not name.endswith(("_created", "_sum", "_count"))
    }
    assert named(queries()) <= exposed()
    assert unseen == {
        "keywheel_up",
        "keywheel_key_ready",
        "keywheel_redis_evicts",
        "keywheel_clock_skew_seconds",
        "keywheel_jobs_servable",
    }  # for alerts and KEDA


def test_the_dashboard_fits_its_grid_and_names_no_machine() -> None:
    places: list[dict[str, Any]] = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(grid_position["x"] + grid_position["w"] <= 24 for grid_position in places)
    cells = [
        (x, y)
        for p in places
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells)), "two panels overlap"
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_each_alert_is_seen_to_fire_and_to_stay_quiet() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    cases = yaml.safe_load(RULES.with_name("keywheel.tests.yml").read_text())["tests"]
    quiet = {
        case_part["alertname"]
        for case in cases
        for case_part in case.get("alert_rule_test", ())
        if not case_part["exp_alerts"]
    }
    fires = {
        name
        for case in cases
        for case_part in case.get("promql_expr_test", ())
        if case_part["exp_samples"]
        for name in re.findall(r"Keywheel\w+", case_part["expr"])
    }
    alerts = {rule["alert"] for rule in rules}
    assert (quiet, fires) == (alerts, alerts)


def test_each_alert_has_a_runbook() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    docs = DEPLOY.parent / "docs"
    monitoring = (docs / "monitoring.md").read_text()
    for rule in rules:
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        page = docs / path.removeprefix("docs/")
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert anchor in anchors, rule["alert"]
        assert f"[`{rule['alert']}`]({page.name}#{anchor})" in monitoring
