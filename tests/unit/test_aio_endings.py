"""What the error that ends a body counts as: a failure, an order to Celery, or a lost worker."""

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from tests.unit.aio_pool.conftest import app, start
from tests.unit.aio_pool.pool_outcome import Outcome, Start
from worker.aio import endings

__all__ = ["app", "start"]


class Stop(BaseException):
    """No `Exception`, and none that ends a process."""


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
def test_what_would_end_a_process_costs_the_worker(error: BaseException, *, costs: bool) -> None:
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
