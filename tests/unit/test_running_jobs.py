"""The query for the jobs that the workers run: it holds a connection to the broker for a second."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from worker.running_jobs import running_among

ACTIVE = frozenset({"job-3", "job-8"})


class Inspect:
    """Replaces Celery's `inspect`; its workers answer when the test lets them."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, ...]] = []
        self.at_once = self.most_at_once = 0
        self.has_question, self.may_answer = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def query_task(self, *ids: str) -> dict[str, dict[str, Any]] | None:
        self.questions.append(ids)
        self.has_question.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.may_answer.wait(10)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        states = {
            job: ("active" if job in ACTIVE else "reserved", {}) for job in ids if job != "job-0"
        }
        return {"w1@host": states} if states else None

    @property
    def app(self) -> Any:
        return SimpleNamespace(control=SimpleNamespace(inspect=lambda **_: self))


async def begun(inspect: Inspect, jobs: range) -> list["asyncio.Task[set[str]]"]:
    """Ask for each job separately, after the query for the first is sent."""
    first, *others = jobs
    tasks = [asyncio.create_task(running_among(inspect.app, [f"job-{first}"]))]
    assert await asyncio.to_thread(inspect.has_question.wait, 10)
    tasks += [asyncio.create_task(running_among(inspect.app, [f"job-{other}"])) for other in others]
    await asyncio.sleep(0)
    return tasks


async def test_concurrent_calls_share_a_question_and_only_one_is_asked_at_a_time() -> None:
    inspect = Inspect()
    tasks = await begun(inspect, range(10))
    inspect.may_answer.set()
    answers = await asyncio.gather(*tasks)
    assert [sorted(answer) for answer in answers] == [
        [f"job-{number}"] if f"job-{number}" in ACTIVE else [] for number in range(10)
    ]
    assert [len(ids) for ids in inspect.questions] == [1, 9]
    assert inspect.most_at_once == 1


async def test_one_call_for_many_jobs_is_one_question() -> None:
    inspect = Inspect()
    inspect.may_answer.set()
    assert await running_among(inspect.app, [f"job-{number}" for number in range(9)]) == ACTIVE
    assert [len(ids) for ids in inspect.questions] == [9]


async def test_a_caller_that_gives_up_leaves_the_others_their_answer() -> None:
    inspect = Inspect()
    tasks = await begun(inspect, range(7, 9))
    tasks[0].cancel()
    inspect.may_answer.set()
    assert await tasks[1] == {"job-8"}
    assert tasks[0].cancelled()


async def test_a_broker_that_is_down_fails_the_calls_that_wait_and_no_later_ones() -> None:
    inspect = Inspect()
    tasks = await begun(inspect, range(3))
    inspect.error = OperationalError("away")
    inspect.may_answer.set()
    for task in tasks:
        with pytest.raises(OperationalError):
            await task
    inspect.error = None
    assert await running_among(inspect.app, ["job-3"]) == {"job-3"}
