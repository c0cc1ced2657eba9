"""The error that ends a body counts as a failure, an order to Celery, or a lost worker."""

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from tests.unit.aio_pool.conftest import app, start
from tests.unit.aio_pool.pool_outcome import Outcome, Start
from worker.aio import endings
from worker.aio.errors import WorkerLost

__all__ = ["app", "start"]


class Stop(BaseException):
    """A `BaseException` that is not an `Exception` and does not end a process."""


@pytest.mark.parametrize(
    ("error", "costs"),
    [
        (SystemExit(1), True),
        (KeyboardInterrupt(), True),
        (GeneratorExit(), True),
        (BaseExceptionGroup("", [ValueError(), BaseExceptionGroup("", [SystemExit(1)])]), True),
        (Stop(), False),
        (BaseExceptionGroup("", [ValueError(), Stop()]), False),
        (ValueError(), False),
    ],
)
def test_an_error_that_would_end_a_process_costs_the_worker(
    error: BaseException, *, costs: bool
) -> None:
    assert endings.costs_the_worker(error) == costs


@pytest.mark.parametrize("order", [Retry("later"), Ignore(), Reject("no", requeue=True)])
def test_an_order_to_celery_keeps_its_meaning_in_a_task_group(order: Exception) -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", [order])
    assert endings.for_tracer(group) is order
    assert endings.for_tracer(ExceptionGroup("", [group])) is order
    assert endings.for_tracer(ExceptionGroup("", [order, ValueError()])) is None


def test_an_error_that_would_end_no_process_is_a_failure(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def stops() -> None:
        raise Stop

    answer: Any = Outcome(start(), stops).answer
    assert answer.type is Stop


@pytest.mark.parametrize("raised", [True, False])
def test_an_error_has_billiards_form_with_a_traceback(*, raised: bool) -> None:
    error = ValueError("no")
    if raised:
        try:
            raise error
        except ValueError:
            pass
    info: Any = endings.info_of(error)
    assert (info.type, info.exception.exc) == (ValueError, error)
    assert "ValueError: no" in info.traceback


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit(3), "the task tried to end its worker: SystemExit(3)"),
        (WorkerLost("MemoryError()"), "the task tried to end its worker: MemoryError()"),
    ],
)
def test_the_error_of_a_lost_worker_has_its_reason(error: BaseException, words: str) -> None:
    assert str(endings.lost(error)) == words


def test_a_body_that_runs_out_of_memory_has_cost_its_worker() -> None:
    seen = endings.for_tracer(MemoryError())
    assert (type(seen), str(seen)) == (WorkerLost, "MemoryError()")


def test_errors_that_were_reported_keep_no_traceback_and_no_arguments() -> None:
    def raised(error: Any, cause: Any = None) -> Any:
        try:
            raise error from cause  # noqa: TRY301 - for its traceback
        except BaseException as exc:  # noqa: BLE001 - raised above
            return exc

    cause, part = raised(KeyError("cause")), raised(OSError("part"))
    group = raised(ExceptionGroup("", [part]), cause)
    retry = raised(Retry("later", exc=raised(ValueError("why"))))
    retry.args = (retry,)
    reported: Any = endings.info_of(raised(TypeError("reported")))
    endings.forget([group, group, retry], [print, reported])
    every = (cause, part, group, retry, retry.exc, reported.exception)
    assert [each.__traceback__ for each in every] == [None] * 6
    assert retry.args == ()
    endings.forget([group], None)
