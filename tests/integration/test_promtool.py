"""Alert rules and dashboard, read by Prometheus itself: alerts fire when they should."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool is installed (Debian: prometheus)"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "keywheel.rules.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "keywheel.tests.yml"),
    ],
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads((DEPLOY / "grafana" / "keywheel.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    plain = [query.replace("$__rate_interval", "1m").replace("$service", ".+") for query in queries]
    rules = [{"record": f"r{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "r.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "r.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
