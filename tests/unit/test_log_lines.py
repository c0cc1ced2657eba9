"""The log lines of the code: one form, and what happens next after a failure."""

import ast
from collections.abc import Iterator
from functools import cache

from tests.pages import ROOT

LEVELS = {"debug", "info", "warning", "error", "exception"}
NAMES = ("ADMIN_USERS", "Flower", "Initiating Soft Shutdown", "Redis")  # the last but one: Celery's


@cache
def log_lines() -> list[tuple[str, str, str]]:
    """The place, level and text of each log line whose text stands in the call or just before."""
    return list(find_log_lines())


def find_log_lines() -> Iterator[tuple[str, str, str]]:
    for folder in ("config", "tasks", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            texts: dict[str, str] = {}
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
                    node.value, ast.Constant
                ):
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    texts[ast.unparse(target)] = str(node.value.value)
                elif isinstance(node, ast.Call) and node.args and (level := level_of(node.func)):
                    first = node.args[0]
                    text = (
                        str(first.value)
                        if isinstance(first, ast.Constant)
                        else texts.get(ast.unparse(first), "")
                    )
                    if text:
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", level, text


def level_of(function: ast.expr) -> str:
    if isinstance(function, ast.Name) and function.id == "warn":
        return "warning"
    is_log = isinstance(function, ast.Attribute) and "log" in ast.unparse(function.value)
    return function.attr if is_log and function.attr in LEVELS else ""


def test_every_log_line_begins_in_lower_case_and_has_no_full_stop() -> None:
    lines = log_lines()
    assert len(lines) > 90
    odd = [
        (place, text)
        for place, _, text in lines
        if (text[0].isupper() and not text.startswith(NAMES)) or text.endswith(".")
    ]
    assert odd == [], "CONTRIBUTING.md says how log lines are written"


def test_every_warning_of_a_failure_says_what_happens_next() -> None:
    lines = [line for line in log_lines() if line[1] != "debug" and line[2].startswith("cannot")]
    assert len(lines) > 20
    silent = [
        (place, text)
        for place, _, text in lines
        if not any(mark in text for mark in ("; ", ", so ", "dead letter"))
    ]
    assert silent == [], "add what happens next: `cannot … (cause); what happens next`"
