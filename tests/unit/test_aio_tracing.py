"""Parts of Celery and billiard that the tracer replaces: retries, contexts, tracebacks, results."""

import pickle
import traceback
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import celery
import pytest
from billiard.einfo import ExceptionInfo
from celery import signals
from celery.app import trace
from celery.app.task import Context
from celery.exceptions import Retry
from celery.utils.saferepr import saferepr

from worker.aio import tracing


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Mock:
    info = Mock()
    monkeypatch.setattr(trace, "info", info)
    return info


@pytest.mark.parametrize("stores", [True, False])
@pytest.mark.parametrize("waits", [None, {"until": 5}])
def test_a_light_retry_is_reported_as_by_celery_but_without_a_traceback(
    log: Mock, waits: Any, *, stores: bool
) -> None:
    why, task, heard = ValueError("full"), Mock(light_retry=True), list[Any]()
    task.name = "x"
    retry: Any = Retry("later", exc=why, when=3)
    retry.waits = waits
    request: Any = Context(id="job-1", args=[1], kwargs={"a": 2}, task="x")

    def hear(**signal: Any) -> None:
        heard.append(signal)

    signals.task_retry.connect(hear)
    traced = SimpleNamespace(retval=retry)
    try:
        # It is stored unless the task ignores its result.
        info = tracing._handle_retry(
            traced, task, request, **({} if stores else {"store_errors": False})
        )
    finally:
        signals.task_retry.disconnect(hear)
    assert task.backend.mark_as_retry.call_args_list == (
        [call("job-1", why, None, request=request)] if stores else []
    )
    assert task.on_retry.call_args_list == [call(why, "job-1", [1], {"a": 2}, info)]
    [signal] = heard
    assert (signal["sender"], signal["request"], signal["reason"], signal["einfo"]) == (
        task, request, retry, info,
    )  # fmt: skip
    fields = {"id": "job-1", "name": "x", "exc": str(retry)} | ({"waits": waits} if waits else {})
    assert log.call_args_list == [call(trace.LOG_RETRY, fields)]
    assert (info.type, str(info), info.traceback, info.internal) == (Retry, "", "", False)
    assert info.exc_info == (Retry, info.exception, None)
    assert info.exception.exc is retry
    assert repr(info) == f"<LightRetryInfo: {retry!r}>"


def test_any_other_retry_is_celerys(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = Mock()
    monkeypatch.setattr(tracing, "_stock_handle_retry", stock)
    for task in (SimpleNamespace(light_retry=False), SimpleNamespace()):
        handled = tracing._handle_retry("traced", task, "request", call_errbacks=True)
        assert handled is stock.return_value
        assert stock.call_args == call(
            "traced", task, "request", store_errors=True, call_errbacks=True
        )


# The parts of a context.
@pytest.mark.parametrize(
    "fields",
    [
        {"id": "job-1", "lang": "py", "task": "x"},
        {"id": "job-1", "timelimit": [5, 3], "own": 1},
        {"timelimit": (None, None, "more")},
        {"timelimit": [5]},
        {"timelimit": None, "headers": {"a": 1}, "own": 1},
        {"headers": None, "argsrepr": "()", "kwargsrepr": "{}", "compression": None},
    ],
)
def test_a_context_reads_as_celerys(fields: dict[str, Any]) -> None:
    more = {"called_directly": False}
    of_ours = tracing.JobContext(dict(fields), **more)
    of_celery = Context(dict(fields), **more)
    assert vars(of_ours) == vars(of_celery)
    assert vars(tracing.JobContext([("id", "a")], x=1)) == vars(Context([("id", "a")], x=1))
    assert vars(tracing.JobContext(x=1)) == vars(Context(x=1))


def test_a_body_is_run_directly_if_only_celery_has_wrapped_its_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrapped(self: Any) -> None: ...

    for module, shown in ((trace.__name__, "celery.app.task"), ("shop", "shop")):
        wrapped.__module__ = module
        monkeypatch.setattr(celery.Task, "__call__", wrapped)
        tracing.install()
        tracing.uninstall()
        assert wrapped.__module__ == shown


def test_the_replaced_parts_are_celerys_again_after_uninstalling() -> None:
    def parts() -> tuple[Any, ...]:
        info = trace.TraceInfo
        ends = info.handle_error_state, info.handle_ignore, info.handle_reject
        return (trace.saferepr, info.handle_retry, *ends, trace.Context,
                tracing.StockFrame.Code, tracing.einfo.Traceback.Frame)  # fmt: skip

    before = parts()
    tracing.install()
    of_ours = parts()
    tracing.uninstall()
    assert parts() == before
    assert all(
        ours_now is not before_it for ours_now, before_it in zip(of_ours, before, strict=True)
    )


def test_a_copy_of_a_code_object_has_all_that_billiards_has() -> None:
    code = tracing.install.__code__
    of_ours, of_celery = vars(tracing.SharedCode(code)), vars(tracing.StockCode(code))
    assert of_ours.keys() == of_celery.keys()
    assert {name: of_ours[name] for name in tracing._COPIED} == {
        name: of_celery[name] for name in tracing._COPIED
    }


def test_tracebacks_share_the_positions_of_their_code_and_read_as_billiards_do() -> None:
    def failed() -> Any:
        try:
            return int("x")
        except ValueError:
            return ExceptionInfo()

    stock = failed()
    tracing.install()
    try:
        shared, again = failed(), failed()
    finally:
        tracing.uninstall()
    assert traceback.format_tb(shared.tb) == traceback.format_tb(stock.tb)
    copied = pickle.loads(pickle.dumps(shared.tb))  # noqa: S301 - ours
    assert traceback.format_tb(copied) == traceback.format_tb(stock.tb)
    assert shared.tb.tb_frame.f_code._co_positions is again.tb.tb_frame.f_code._co_positions


@pytest.mark.parametrize(
    "value",
    [
        {"text": "x" * 5_000, "usage": {"tokens": [1, 2]}},
        {},
        {"a": {}},
        [1, 2],
        "text",
        None,
        12345,
    ],
)
@pytest.mark.parametrize("longest", [1, 2, 1024, None])
def test_a_result_is_represented_as_celery_does(value: Any, longest: int | None) -> None:
    tracing.install()
    try:
        assert trace.saferepr(value, longest) == saferepr(value, longest)
    finally:
        tracing.uninstall()
    assert trace.saferepr is saferepr


def test_a_hidden_result_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_stock_saferepr", None)
    assert tracing._short_repr({"text": "secret"}, 1) == "{, ...}"
