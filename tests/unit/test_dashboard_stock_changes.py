"""Changes by Flower's own API, in the audit trail."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from worker.dashboard import stock_changes
from worker.dashboard.errors import ApiError, RedisUnreachable
from worker.dashboard.stock_changes import change_in


def request(path: str, method: str = "POST", status: int = 200, **arguments: str) -> Any:
    return SimpleNamespace(
        request=SimpleNamespace(
            path=path,
            method=method,
            arguments={name: [b"earlier", text.encode()] for name, text in arguments.items()},
        ),
        application=SimpleNamespace(visitor=lambda _: SimpleNamespace(name="ada")),
        get_status=lambda: status,
    )


@pytest.mark.parametrize(
    ("handler", "event", "scope", "name", "reason"),
    [
        (request("/api/task/revoke/job-1", terminate="true"), "revoke", "job", "job-1",
         "terminate=true"),
        (request("/api/task/abort/job-1"), "abort", "job", "job-1", ""),
        (request("/api/worker/shutdown/w1@a"), "shutdown", "worker", "w1@a", ""),
        (request("/flower/api/worker/pool/grow/w1%40a", n="3"), "grow", "worker", "w1@a", "n=3"),
        (request("/api/worker/queue/add-consumer/w1", queue=" ai "), "add-consumer", "worker", "w1",
         "queue=ai"),
        (request("/api/task/timeout/a.b", soft="1", hard="2", workername="w", other="x"), "timeout",
         "task", "a.b", "workername=w, soft=1, hard=2"),
        (request("/api/worker/shutdown/w+1"), "shutdown", "worker", "w+1", ""),
        (request("/api/worker/shutdown/w%0a%1b1"), "shutdown", "worker", "w1", ""),
        (request(f"/api/worker/shutdown/{'w' * 201}"), "shutdown", "worker", "w" * 200, ""),
        (request("/api/worker/pool/grow/w", n="3" * 199), "grow", "worker", "w",
         f"n={'3' * 198}"),
    ],
)  # fmt: skip
def test_a_change_is_written_down_in_plain_text(
    handler: Any, event: str, scope: str, name: str, reason: str
) -> None:
    assert change_in(handler) == (event, scope, name, reason, "flower ada")


@pytest.mark.parametrize(
    "handler",
    [
        request("/api/task/revoke/job-1", method="GET"),
        request("/api/task/revoke/job-1", status=400),
        request("/api/task/revoke/job-1", status=404),
        request("/api/tasks"),
        *(request(f"/api/task/{event}/t") for event in ("apply", "async-apply", "send-task")),
    ],
)
def test_a_request_that_changed_nothing_or_only_enqueues_is_not_written_down(handler: Any) -> None:
    assert change_in(handler) is None


def test_a_change_by_a_visitor_without_login_is_noted_without_a_name() -> None:
    def stranger(_: Any) -> None:
        raise ApiError(401, "login_required", "Log in.")

    handler = request("/api/worker/shutdown/w1", status=399)
    handler.application.visitor = stranger
    change = change_in(handler)
    assert change is not None
    assert change.by == "flower without login"


CHANGE = stock_changes.StockChange("revoke", "job", "job-1", "terminate=true", "flower ada")


async def test_a_change_is_added_to_the_audit_trail() -> None:
    added: list[Any] = []
    log = SimpleNamespace(add=lambda event, **given: added.append((event, given)))
    poller = SimpleNamespace(with_actions=AsyncMock(side_effect=lambda work: work(log)))
    await stock_changes.write_down(poller, CHANGE)
    about = {"scope": "job", "name": "job-1", "by": "flower ada", "reason": "terminate=true"}
    assert added == [("revoke", about)]


async def test_a_change_that_cannot_be_noted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gone = RedisUnreachable("Redis does not answer")
    poller = SimpleNamespace(with_actions=AsyncMock(side_effect=gone))
    await stock_changes.write_down(poller, CHANGE)
    assert caplog.messages == [
        f"cannot record revoke in the audit trail ({gone}); the change itself is made"
    ]
    poller.with_actions.side_effect = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await stock_changes.write_down(poller, CHANGE)


def test_a_change_of_a_visitor_who_needs_no_login_is_noted_without_login() -> None:
    def nobody(_: Any) -> Any:
        raise ApiError(401, "login_required", "x")

    handler: Any = SimpleNamespace(request="r", application=SimpleNamespace(visitor=nobody))
    assert stock_changes._visitor(handler) == "without login"
