"""The files that run the checks elsewhere: the hosted workflow and the hooks of a clone."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

OTHERS = "node_modules"
ROOT = Path(__file__).parents[2]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[str]:
    """Return the Python versions that the project declares, lowest first."""
    prefix = "Programming Language :: Python :: "
    versions = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if prefix in line]
    return sorted(versions, key=lambda version: [int(part) for part in version.split(".")])


def test_the_workflow_tests_the_lowest_declared_python_and_checks_the_highest() -> None:
    rows = WORKFLOW["jobs"]["check"]["strategy"]["matrix"]["include"]
    assert [(row["python"], row["target"]) for row in rows] == [
        (declared()[0], "test"),
        (declared()[-1], "check"),
    ]
    assert PROJECT["requires-python"] == f">={declared()[0]}"


def test_the_workflow_names_each_action_by_its_commit() -> None:
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)] == []


def test_the_hooks_fetch_nothing_and_run_what_make_runs() -> None:
    assert [repo["repo"] for repo in HOOKS["repos"]] == ["local"]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for hook in HOOKS["repos"][0]["hooks"]:
        words = hook["entry"].split()
        assert words[0] == ".venv/bin/python" or (words[0] == "make" and words[1] in targets)


@pytest.mark.parametrize(
    "folder",
    [".ci", "benchmarks", "clients", "config", "demo", "sandbox", "tasks", "tests", "worker"],
)
def test_no_file_is_longer_than_350_lines(folder: str) -> None:
    files = [path for kind in ("py", "lua", "ts") for path in (ROOT / folder).rglob(f"*.{kind}")]
    lengths = {path: path.read_text().count("\n") for path in files if OTHERS not in path.parts}
    assert lengths
    assert {path: lines for path, lines in lengths.items() if lines > 350} == {}


def test_no_line_of_the_pages_scripts_is_longer_than_100_columns() -> None:
    scripts = list((ROOT / "worker/dashboard/static").glob("*.js"))
    assert scripts
    long = [
        f"{path.name}:{number}"
        for path in scripts
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
        if len(line) > 100
    ]
    assert long == []
