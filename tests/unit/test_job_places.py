"""The place of a job in its queue, and when it may start; without a Redis."""

import base64
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from config.celery import QUEUES
from tests.unit.quoted_pools import in_s, pool
from worker.aio.transport.delayed import lists_of
from worker.aio.transport.finding import Found
from worker.quotes import place

AI = "tasks.ai.complete"
NOWHERE = {"place": None, "waiting": None, "expected_start": None, "limited_by": ""}


class _App:
    def __init__(self) -> None:
        named = SimpleNamespace(service="groq", resources_of=lambda kwargs: kwargs["models"])
        self.tasks = {AI: named, "other": SimpleNamespace()}


def message(task: str, body: Any) -> dict[str, Any]:
    text = body if isinstance(body, str) else json.dumps(body)
    trail = {"attempts": 1}
    return {
        "headers": {"task": task, "keywheel": trail},
        "body": base64.b64encode(text.encode()).decode(),
    }


class _Broker:
    """Finds one job in one queue."""

    def __init__(self, queue: str, waiting_job: Found | None) -> None:
        self._in, self._waiting_job = lists_of(queue), waiting_job
        self.searches: list[Any] = []

    async def find(self, broker: Any, job: str, lists: Any) -> Found | None:
        assert (broker, job) == (self, "job-1")
        self.searches.append(lists)
        return self._waiting_job if lists == self._in else None


@pytest.fixture
def place_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def find_place(queue: str, waiting_job: Found | None, **more: Any) -> Any:
        broker = _Broker(queue, waiting_job)
        monkeypatch.setattr(place, "find_job", broker.find)
        view = pool("groq", ("rpm", 60, 0), accepted=2, tokens=500)

        async def snapshot() -> Any:
            return view

        pools = {"groq": SimpleNamespace(snapshot=snapshot)}
        runtime = SimpleNamespace(**({"broker": broker, "pools": pools} | more))
        monkeypatch.setattr(place, "Runtime", SimpleNamespace(current=lambda: runtime))
        return await place.place_of(_App(), "job-1"), broker  # type: ignore[arg-type]

    return find_place


KWARGS = {"models": ["m"]}


async def test_a_job_that_waits_has_a_place_and_an_expected_start(place_in: Any) -> None:
    last = list(QUEUES)[-1]
    waiting_job = Found(4, 9, message(AI, [[], KWARGS, {}]))
    answer, broker = await place_in(last, waiting_job)
    assert (answer["place"], answer["waiting"], answer["limited_by"]) == (5, 9, "rpm")
    assert in_s(answer["expected_start"]) == pytest.approx(5, abs=1)
    assert datetime.fromisoformat(answer["expected_start"]).tzinfo == UTC
    assert broker.searches[: len(QUEUES)] == [lists_of(queue) for queue in QUEUES]


async def test_a_job_that_waits_nowhere_has_no_place(place_in: Any) -> None:
    answer, broker = await place_in("custom", None)
    assert answer == NOWHERE
    assert len(broker.searches) == len({*QUEUES, place.CUSTOM_QUEUE})
    answer, broker = await place_in("custom", None, broker=None)
    assert (answer, broker.searches) == (NOWHERE, [])
    answer["place"] = 7
    assert (await place_in("custom", None))[0] == NOWHERE


async def test_a_job_without_a_service_has_a_place_and_no_expected_start(place_in: Any) -> None:
    for task in ("other", "gone"):
        answer, _ = await place_in(place.CUSTOM_QUEUE, Found(0, 1, message(task, [[], {}, {}])))
        assert answer == NOWHERE | {"place": 1, "waiting": 1}


@pytest.mark.parametrize(
    ("task", "body", "model"),
    [
        (AI, [[], {"models": ["m", "n"]}, {}], "m"),
        (AI, [[], {"models": []}, {}], ""),
        (AI, [[], {}, {}], ""),
        (AI, [[], None, {}], ""),
        (AI, [[], {}], ""),
        (AI, "no JSON", ""),
        ("other", [[], KWARGS, {}], ""),
        ("gone", [[], KWARGS, {}], ""),
    ],
)
async def test_the_model_of_a_job_is_the_first_that_it_names(
    monkeypatch: pytest.MonkeyPatch, task: str, body: Any, model: str
) -> None:
    broker: Any = _Broker("ai", Found(2, 3, message(task, body)))
    monkeypatch.setattr(place, "find_job", broker.find)
    found = await place.find_place(_App(), "job-1", broker)  # type: ignore[arg-type]
    assert found is not None
    assert (found.number, found.waiting, found.task, found.model) == (3, 3, task, model)
