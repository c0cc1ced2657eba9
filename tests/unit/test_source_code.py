"""Every module: its log lines, its `except` clauses, and whether the pages describe them."""

import ast
import re
import runpy
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.pages import INLINE_RE, ROOT, text_of

LEVELS = {"debug", "info", "warning", "error", "exception"}
# "Initiating Soft Shutdown" is Celery's.
NAMES = ("ADMIN_USERS", "Flower", "Initiating Soft Shutdown", "Redis")


@cache
def tree_of(source: str) -> ast.Module:
    """The syntax tree of a module; the tests of this file parse each module once."""
    return ast.parse(source)


@cache
def log_lines() -> list[tuple[str, str, str]]:
    """The location, level and text of each log line whose text is in the call or just before."""
    return list(find_log_lines())


def find_log_lines() -> Iterator[tuple[str, str, str]]:
    for folder in ("config", "tasks", "worker"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            texts: dict[str, str] = {}
            for node in ast.walk(tree_of(text_of(path))):
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
        (location, text)
        for location, _, text in lines
        if (text[0].isupper() and not text.startswith(NAMES)) or text.endswith(".")
    ]
    assert odd == [], "CONTRIBUTING.md describes the form of log lines"


def test_every_warning_of_a_failure_says_what_happens_next() -> None:
    lines = [line for line in log_lines() if line[1] != "debug" and line[2].startswith("cannot")]
    assert len(lines) > 20
    silent = [
        (location, text)
        for location, _, text in lines
        if not any(mark in text for mark in ("; ", ", so ", "dead letter"))
    ]
    assert silent == [], "add what happens next: `cannot … (cause); what happens next`"


@cache
def texts_of_the_code() -> list[str]:
    """Every text in the code of the worker; its variable parts are blanks."""
    texts = []
    for path in sorted([*(ROOT / "worker").rglob("*.py"), *(ROOT / "config").glob("*.py")]):
        for node in ast.walk(tree_of(text_of(path))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else " " for part in node.values
                ]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[\d.]*[sdgfr]", " ", node.value))
    return texts


OF_CELERY = (
    "Received unregistered task",
    "Received invalid task",
    "Can't decode message body",
    "raised expected",
    "Retry in",
    "a connection",
    "Connection refused",
)


SAMPLE_RE = re.compile(
    r"\b(?:groq|resend|gsk_\w+|re_\w+|email|admin|w1|host|GROQ_\w+|ID)\b", re.IGNORECASE
)


def words_of(line: str) -> set[str]:
    return set(re.findall(r"[a-z][a-z_']{2,}", SAMPLE_RE.sub(" ", line).lower()))


def test_every_log_line_that_the_pages_explain_is_written_by_the_code() -> None:
    page = text_of(ROOT / "docs/log-lines.md")
    cells = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    lines = [line for cell in cells for line in INLINE_RE.findall(cell)]
    assert len(lines) > 40
    known = [words_of(text) for text in texts_of_the_code()]
    parts = {
        part: words_of(part)
        for line in lines
        if not any(start in line for start in OF_CELERY)
        for part in re.split(r"…|: |TransientError\(|kw:stream:", line)
    }
    unknown = [
        part
        for part, words in parts.items()
        if len(words) > 1 and not any(words <= others for others in known)
    ]
    assert unknown == []


def test_packages_that_the_pool_imports_are_named_and_installed_if_it_is_measured_alone() -> None:
    brought_by_celery, optional = {"billiard", "kombu", "vine"}, {"uvloop"}
    trees = [tree_of(text_of(path)) for path in (ROOT / "worker/aio").rglob("*.py")]
    imported = {
        name.partition(".")[0]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    needed = imported - sys.stdlib_module_names - brought_by_celery - {"worker"}
    (sentence,) = re.findall(r"It needs [^.]*\.\d[^.]*\.", text_of(ROOT / "docs/asyncio-pool.md"))[
        :1
    ]
    named = sentence.lower().replace("redis-py", "redis")
    assert {name for name in needed - optional if not re.search(rf"\b{name}\b", named)} == set()
    environments = runpy.run_path(str(ROOT / "benchmarks/environments.py"))
    installed = {
        re.split(r"[\[>=<]", package)[0] for package in environments["REQUIREMENTS"]["celery"]
    }
    assert needed - installed == set()


FOLDERS = ("clients/python", "config", "tasks", "worker")
TAKES_ALL = {"Exception", "BaseException"}

REASONED = {
    "worker/aio/consumer_calls.py close": "the hub may be closed in any way",
    "worker/aio/job.py run_body": "what the body raised is the job's end",
    "worker/aio/loop_thread.py _run_until_stopped": "the loop ends",
    "worker/aio/reports.py report": "the message is settled, and the error logged",
    "worker/aio/result_encoding.py _encode": "a value of the user's that JSON cannot hold",
    "worker/aio/transport/delivery.py _hand_over": "a message that nobody can read is set aside",
    "worker/aio/transport/leases.py _forget_client": "a connection that is given up",
    "worker/aio/transport/messages.py _decode": "a message of a stranger's, as kombu takes it",
    "worker/deadletters/replay.py _publish": "there may be no result store",
    "worker/jobs/rescheduling.py _publish_with_retries": "kombu raises bugs of its own",
    "worker/providers/connections.py __aiter__": "`failure_of` returns what is none of its kinds",
    "worker/providers/connections.py handle_async_request": "the same",
    "worker/providers/connections.py read": "the same",
    "worker/providers/resend/client.py call": "raised again unless a call was made",
    "worker/startup/machine.py check_machine": "the worker does not start, and names the error",
}
"""Clauses that neither re-raise the exception, nor log its traceback, nor have a `noqa`."""


def name_of(function: ast.expr) -> str:
    """The last part of the name of a called function."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def clauses_of(tree: ast.Module) -> Iterator[tuple[str, int, list[ast.expr], list[ast.stmt]]]:
    """The function, line, exceptions and body of each clause, and of each `suppress`."""

    def walk(
        node: ast.AST, function: str
    ) -> Iterator[tuple[str, int, list[ast.expr], list[ast.stmt]]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.ExceptHandler):
            yield function, node.lineno, [node.type or ast.Name("Exception")], node.body
        if isinstance(node, ast.Call) and name_of(node.func) == "suppress":
            yield function, node.lineno, node.args, []
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function)

    yield from walk(tree, "")


def tuples_of(trees: dict[Path, ast.Module]) -> dict[str, ast.expr]:
    """The constants that clauses may name, such as `BROKER_ERRORS`."""
    return {
        target.id: node.value
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in [node.targets[0] if isinstance(node, ast.Assign) else node.target]
        if isinstance(target, ast.Name)
    }


def takes_all(taken: list[ast.expr], tuples: dict[str, ast.expr]) -> bool:
    names = {
        node.id
        for expression in taken
        for node in ast.walk(expression)
        if isinstance(node, ast.Name)
    }
    return bool(names & TAKES_ALL) or any(
        takes_all([tuples[name]], tuples) for name in names if name in tuples
    )


def lets_out(body: list[ast.stmt], line: str) -> bool:
    """Whether a clause re-raises the exception, logs its traceback, or gives its reason."""
    is_raised = bool(body) and isinstance(body[-1], ast.Raise) and body[-1].exc is None
    is_logged = any(
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ger.exception")
        for statement in body
        for node in ast.walk(statement)
    )
    return is_raised or is_logged or "noqa: BLE001 - " in line


def silent_clauses(sources: dict[Path, str]) -> list[str]:
    """The location of each clause that would silently swallow an error in our code."""
    trees = {path: tree_of(source) for path, source in sources.items()}
    tuples = tuples_of(trees)
    return sorted(
        f"{path} {function}"
        for path, tree in trees.items()
        for function, number, taken, body in clauses_of(tree)
        if takes_all(taken, tuples) and not lets_out(body, sources[path].splitlines()[number - 1])
    )


def test_no_clause_swallows_bugs_of_ours_without_a_reason() -> None:
    sources = {
        path.relative_to(ROOT): text_of(path)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert silent_clauses(sources) == sorted(REASONED), (
        "name the exceptions, re-raise the others, or give a reason"
    )


@pytest.mark.parametrize(
    ("clause", "is_silent"),
    [
        ("except Exception:\n    pass", True),
        ("except:\n    pass", True),
        ("except (OSError, Exception) as exc:\n    raise Ours from exc", True),
        ("except BROKER_ERRORS:\n    pass", True),
        ("except BaseException:\n    log()\n    raise", False),
        ("except Exception:\n    logger.exception('the loop goes on')", False),
        ("except Exception:  # noqa: BLE001 - of any broker\n    pass", False),
        ("except (OSError, KeyError):\n    pass", False),
        ("finally:\n    with suppress(Exception):\n        call()", True),
        ("finally:\n    with suppress(OSError):\n        call()", False),
    ],
)
def test_a_clause_that_is_widened_is_found(clause: str, *, is_silent: bool) -> None:
    source = f"BROKER_ERRORS = (OSError, Exception)\ntry:\n    call()\n{clause}\n"
    assert bool(silent_clauses({Path("some.py"): source})) is is_silent
