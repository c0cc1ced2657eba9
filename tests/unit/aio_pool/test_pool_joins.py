"""Jobs that wait for the results of other jobs."""

from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, ResultSet, allow_join_result
from celery.utils import uuid

from tests.unit.aio_pool.pool_outcome import Outcome, Start


def test_a_job_waits_for_results_with_and_without_a_time(app: Celery, start: Start) -> None:
    known = [AsyncResult(uuid(), app=app) for _ in range(2)]
    for number, result in enumerate(known):
        app.backend.store_result(result.id, number, "SUCCESS")
    unknown = AsyncResult(uuid(), app=app)

    @app.task(shared=False)
    async def joins() -> list[Any]:
        seen: list[Any] = []
        with allow_join_result():
            for timeout_s in (None, 60):
                whole = ResultSet(known, app=app)
                seen += [whole.get(timeout=timeout_s), known[1].get(timeout_s)]
                seen += [list(whole.iter_native(timeout=timeout_s)) != []]
            for late in (unknown, ResultSet([known[0], unknown], app=app)):
                try:
                    late.get(timeout=0.01)
                except CeleryTimeoutError:
                    seen.append("late")
        return seen

    answer = Outcome(start(), joins).answer
    assert answer[:2] == (0, "[[0, 1], 1, True, [0, 1], 1, True, 'late', 'late']")
