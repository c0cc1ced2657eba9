"""The endpoint of one job: its response, where it looks for the job, and when the job starts."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from worker.dashboard import jobs
from worker.dashboard.errors import ApiError, RedisUnreachable
from worker.dashboard.job_start import JobStart
from worker.dashboard.job_view import JobView


@pytest.mark.parametrize("job", ["", "two words", "x" * 201, "ü"])
def test_an_address_that_names_no_job_is_answered_with_404(job: str) -> None:
    with pytest.raises(ApiError) as refused:
        jobs.check_job_id(job)
    assert (refused.value.status_code, refused.value.code) == (404, "unknown_job")
    jobs.check_job_id("x" * 200)


@pytest.mark.parametrize(
    ("where", "next_try_ms", "may"),
    [
        ("queue", None, True),
        ("running", None, False),
        ("ended", None, False),
        ("deferred", None, False),
        ("deferred", 100_000, True),
        ("deferred", 100_001, False),
        ("worker", 1, False),
    ],
)
def test_a_job_is_looked_for_in_its_queue_if_it_may_be_there(
    monkeypatch: pytest.MonkeyPatch, *, where: str, next_try_ms: int | None, may: bool
) -> None:
    monkeypatch.setattr(jobs.time, "time", lambda: 100.0)
    waits = None if next_try_ms is None else SimpleNamespace(next_try_ms=next_try_ms)
    assert jobs._may_be_in_queue(SimpleNamespace(where=where, waits=waits)) is may  # type: ignore[arg-type]


def view(where: str, **changes: Any) -> JobView:
    about: dict[str, Any] = {
        "job": "j", "state": "S", "where": where, "task": "", "worker": "", "waits": None,
        "calls": ({"at_ms": 1},), "attempts": None, "events": (), "error": "", "key": "",
    }  # fmt: skip
    return JobView(**about | changes)


CALL = {"at_ms": 5, "key": "gsk_1...", "code": "ok"}
LETTER = SimpleNamespace(task="t", worker="w", reason="why", attempts=[CALL], kind="failed")
PLACE = SimpleNamespace(
    task="t", number=4, model="n", trail=[SimpleNamespace(as_json=lambda: {"at_ms": 9})]
)


@pytest.fixture
def job_request(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Asks for a job; `view`, `letter` and `place` are its planned data."""
    request = SimpleNamespace(view=view("queue"), letter=None, place=None, sent=[], seen=[])

    def look_up(capp: str, job: str, seen: Any) -> JobView:
        request.seen.append((capp, job, seen))
        if isinstance(request.view, Exception):
            raise request.view
        result: JobView = request.view
        return result

    handler: Any = jobs.Job.__new__(jobs.Job)
    handler.application = SimpleNamespace(
        capp="app", events=SimpleNamespace(state=SimpleNamespace(tasks={"j": "seen"}))
    )
    handler.with_pools = AsyncMock(return_value=({"at_ms": 7},))
    handler._find_letter = AsyncMock(side_effect=lambda _: request.letter)
    handler._find_place = AsyncMock(side_effect=lambda _: request.place)
    handler._start_of = AsyncMock(return_value=JobStart(4))
    handler.send_json = request.sent.append
    monkeypatch.setattr(jobs, "look_up", look_up)
    monkeypatch.setattr(jobs.time, "time", lambda: 12.3456)
    request.handler = handler
    return request


async def test_a_job_is_described_by_its_dead_letter_its_place_or_the_calls_of_its_keys(
    job_request: Any,
) -> None:
    await job_request.handler.get("j")
    assert job_request.seen == [("app", "j", "seen")]
    [answer] = job_request.sent
    assert (answer["where"], answer["calls"], answer["dead_letter"]) == (
        "queue",
        ({"at_ms": 1},),
        None,
    )
    assert (answer["place"], answer["now_ms"]) == (4, 12_346)
    job_request.place = PLACE
    await job_request.handler.get("j")
    answer = job_request.sent[-1]
    assert (answer["where"], answer["task"], answer["calls"]) == ("queue", "t", ({"at_ms": 9},))
    job_request.letter = LETTER
    await job_request.handler.get("j")
    answer = job_request.sent[-1]
    assert (answer["task"], answer["worker"], answer["error"]) == ("t", "w", "why")
    assert (answer["calls"], answer["dead_letter"]) == ((CALL,), "failed")
    job_request.view = view("ended", task="own", worker="mine")
    await job_request.handler.get("j")
    assert (job_request.sent[-1]["task"], job_request.sent[-1]["worker"]) == ("own", "mine")
    job_request.letter = job_request.place = None
    for where, calls in (("running", 7), ("ended", 7), ("worker", 1), ("deferred", 1)):
        job_request.view = view(where)
        await job_request.handler.get("j")
        assert job_request.sent[-1]["calls"] == ({"at_ms": calls},)


async def test_a_result_store_that_does_not_answer_is_an_error_of_redis(job_request: Any) -> None:
    job_request.view = ConnectionError("gone")
    with pytest.raises(RedisUnreachable, match=r"Redis does not answer \(ConnectionError\)"):
        await job_request.handler.get("j")
    job_request.view = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await job_request.handler.get("j")


# Where the job is, whether its task is one of ours; the arguments for its start.
@pytest.mark.parametrize(
    ("where", "service", "place", "number", "model"),
    [
        ("queue", "groq", PLACE, 4, "n"),
        ("queue", "groq", None, None, "m"),
        ("worker", "groq", None, None, "m"),
        ("running", "groq", PLACE, 4, None),
        ("queue", "", None, None, None),
    ],
)
async def test_a_start_is_quoted_for_a_job_that_waits_for_a_service(
    monkeypatch: pytest.MonkeyPatch,
    *,
    where: str,
    service: str,
    place: Any,
    number: int | None,
    model: str | None,
) -> None:
    quoted: list[Any] = []

    def start_of(view: str, margins: str, **about: Any) -> JobStart:
        quoted.append((view, margins, about))
        return JobStart(99)

    async def with_pools(work: Any) -> Any:
        return await work({})

    handler: Any = jobs.Job.__new__(jobs.Job)
    state = SimpleNamespace(services={"groq": "the view"})
    margins = SimpleNamespace(of=lambda name: f"of {name}")
    handler.application = SimpleNamespace(
        capp="app", poller=SimpleNamespace(state=state, margins=margins)
    )
    handler.with_pools = with_pools
    known_service = SimpleNamespace(name=service) if service else None
    monkeypatch.setattr(jobs, "service_of", Mock(return_value=known_service))
    monkeypatch.setattr(jobs, "start_of", start_of)
    settings = SimpleNamespace(models={"groq": ("m", "x")})
    monkeypatch.setattr(jobs, "get_settings", lambda: settings)
    start = await handler._start_of(view(where, task="t"), place)
    handler.poller.state = None  # before the first poll, and while Redis does not answer
    assert await handler._start_of(view(where, task="t"), place) == JobStart(number)
    if model is None:
        assert (start, quoted) == (JobStart(number), [])
    else:
        about = {"place": number, "model": model, "is_fetched": where == "worker"}
        assert quoted == [("the view", "of groq", about)]
        assert start == JobStart(99)
