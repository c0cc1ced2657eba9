"""A bug of ours comes out of each `except` clause, unless the clause says why it may not."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import ROOT

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
"""Clauses that neither raise what they take again, nor log its traceback, nor bear a `noqa`."""


def name_of(function: ast.expr) -> str:
    """The last part of the name of what is called."""
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
    names = {node.id for one in taken for node in ast.walk(one) if isinstance(node, ast.Name)}
    return bool(names & TAKES_ALL) or any(
        takes_all([tuples[name]], tuples) for name in names if name in tuples
    )


def lets_out(body: list[ast.stmt], line: str) -> bool:
    """Whether a clause raises what it takes again, logs its traceback, or gives its reason."""
    is_raised = bool(body) and isinstance(body[-1], ast.Raise) and body[-1].exc is None
    is_logged = any(
        isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ger.exception")
        for statement in body
        for node in ast.walk(statement)
    )
    return is_raised or is_logged or "noqa: BLE001 - " in line


def silent_clauses(sources: dict[Path, str]) -> list[str]:
    """The place of each clause that would take a bug of ours without a word."""
    trees = {path: ast.parse(source) for path, source in sources.items()}
    tuples = tuples_of(trees)
    return sorted(
        f"{path} {function}"
        for path, tree in trees.items()
        for function, number, taken, body in clauses_of(tree)
        if takes_all(taken, tuples) and not lets_out(body, sources[path].splitlines()[number - 1])
    )


def test_no_clause_takes_bugs_of_ours_without_a_reason() -> None:
    sources = {
        path.relative_to(ROOT): path.read_text("utf-8")
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    assert silent_clauses(sources) == sorted(REASONED), (
        "name the exceptions that are meant, raise the rest again, or give a reason"
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
