"""A job with a dedupe key continues as its holder, with the holder's end, or later."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery import states
from celery.exceptions import Ignore, Retry
from redis.exceptions import ConnectionError as LostError

from worker.errors import Deferred, JobError, RequestRejected
from worker.jobs import dedupe
from worker.jobs.dedupe import Found, holds_key, release_key, run_deduped

RESULT = {"id": "email-1"}
SETTINGS: Any = SimpleNamespace(task_time_limit_s=30, result_expires_s=86_400)


class Dedupe:
    """The keys, the result store and the run of a job, scripted by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = Mock(join=AsyncMock(), end=AsyncMock(), release=AsyncMock())
        self.keys.record_of = lambda task, key: f"{task}/{key}"
        self.stored: dict[str, dict[str, Any]] = {}
        self.run = Mock(deadline_s=3600.0, reschedule=AsyncMock(side_effect=Retry))
        self.run.history = SimpleNamespace(joined="", age_s=600.0, deferrals=0)
        self.run_class = Mock(return_value=self.run)
        self.work = AsyncMock(return_value=RESULT)
        self.request: Any = SimpleNamespace(
            id="job-1", is_eager=False, called_directly=False, ignore_result=False, headers={}
        )
        backend = SimpleNamespace(get_task_meta=lambda job, **_: self.stored.get(job, {}))
        self.task: Any = SimpleNamespace(name="t", request=self.request, backend=backend)
        monkeypatch.setattr(dedupe, "JobRun", self.run_class)
        monkeypatch.setattr(dedupe, "enqueued_ms_of", lambda _: 5)

    async def __call__(self, key: str | None = "key", **more: Any) -> Any:
        return await run_deduped(
            self.task, self.keys, key, self.work, settings=SETTINGS, deadline_s=7.0, **more
        )

    def looks(self) -> list[tuple[str, int]]:
        """For each look at the key: the job that is known to have ended, and the instant."""
        return [
            (each.kwargs["ended"], each.kwargs["enqueued_ms"])
            for each in self.keys.join.await_args_list
        ]


@pytest.fixture
def deduped(monkeypatch: pytest.MonkeyPatch) -> Dedupe:
    return Dedupe(monkeypatch)


def ended(status: str, result: Any = None) -> dict[str, Any]:
    return {"status": status, "result": result}


@pytest.mark.parametrize("how", ["no key", "eagerly", "directly"])
async def test_a_job_without_a_key_or_a_queue_just_runs(deduped: Dedupe, how: str) -> None:
    deduped.request.is_eager, deduped.request.called_directly = how == "eagerly", how == "directly"
    assert await deduped(None if how == "no key" else "key") == RESULT
    deduped.keys.join.assert_not_awaited()
    deduped.run_class.assert_not_called()
    assert not holds_key(deduped.request)


@pytest.mark.parametrize(("ignores", "kept_ms"), [(False, 86_400_000), (True, None)])
async def test_the_holder_of_a_key_notes_its_end_before_its_result_is_stored(
    deduped: Dedupe, kept_ms: int | None, *, ignores: bool
) -> None:
    deduped.request.ignore_result = ignores
    deduped.keys.join.return_value = Found("job-1", has_ended=False)
    outages, ownership = object(), object()
    assert await deduped(outages=outages, ownership=ownership) == RESULT
    assert deduped.run_class.call_args == call(
        deduped.task, settings=SETTINGS, deadline_s=7.0, ownership=ownership, outages=outages
    )
    hold_ms = (3600 - 600 + 30) * 1000 + 60_000
    assert deduped.keys.join.await_args == call(
        "t/key", "job-1", hold_ms=hold_ms, ended="", enqueued_ms=5
    )
    end = [] if kept_ms is None else [call("t/key", "job-1", keep_ms=kept_ms)]
    assert deduped.keys.end.await_args_list == end
    assert holds_key(deduped.request)
    woken = AsyncMock()
    deduped.keys.release.return_value = ["job-2"]
    await release_key(deduped.request, deduped.keys, woken)
    assert deduped.keys.release.await_args == call("t/key", "job-1")
    assert woken.await_args == call(["job-2"])


async def test_a_key_is_held_for_a_minute_after_a_deadline_that_has_passed(
    deduped: Dedupe,
) -> None:
    deduped.run.history.age_s = 9_999.0
    deduped.keys.join.return_value = Found("job-1", has_ended=False)
    await deduped()
    assert deduped.keys.join.await_args.kwargs["hold_ms"] == 60_000


# How the holder's work ends, and whether that ends its job.
@pytest.mark.parametrize(
    ("error", "is_end"),
    [(RequestRejected("no"), True), (ValueError(), True), (Retry(), False), (Ignore(), False)],
)
async def test_a_failure_is_an_end_and_a_job_that_comes_back_has_none(
    deduped: Dedupe, error: Exception, *, is_end: bool
) -> None:
    deduped.keys.join.return_value = Found("job-1", has_ended=False)
    deduped.work.side_effect = error
    with pytest.raises(type(error)):
        await deduped()
    assert deduped.keys.end.await_count == is_end


@pytest.mark.parametrize("how", ["it had joined", "it ended since"])
async def test_a_job_shares_the_end_of_the_one_that_it_joined(deduped: Dedupe, how: str) -> None:
    if how == "it had joined":
        deduped.run.history.joined = "job-0"
    deduped.keys.join.return_value = Found("job-0", has_ended=True)
    deduped.stored["job-0"] = ended(states.SUCCESS, RESULT)
    shared: list[Any] = []
    assert await deduped(on_shared=shared.append) == RESULT
    assert await deduped() == RESULT
    assert shared == [RESULT]
    assert deduped.keys.join.await_count == (0 if how == "it had joined" else 2)
    deduped.stored["job-0"] = ended(states.FAILURE, RequestRejected("no"))
    with pytest.raises(RequestRejected, match=r"^no$"):
        await deduped(on_shared=shared.append)
    assert len(shared) == 1
    deduped.work.assert_not_awaited()
    assert not holds_key(deduped.request)


# The records in Redis and the result store at each look, the arguments of the looks, and whether
# the job holds the key, shares an end, or waits for another job.
@pytest.mark.parametrize(
    ("holders", "stored", "looks", "end"),
    [
        # The holder still runs.
        ([("a", False)], {}, [("", 5)], "waits for a"),
        # The holder has ended, and its worker died before it released the key.
        ([("a", False), ("job-1", False)], {"a": ended(states.SUCCESS, {})}, [("", 5), ("a", 5)],
         "holds"),
        ([("a", False), ("job-1", False)], {"a": ended(states.REVOKED)}, [("", 5), ("a", 5)],
         "holds"),
        # Other jobs took the key meanwhile, twice.
        ([("a", False), ("b", False), ("c", False)],
         {name: ended(states.REVOKED) for name in "abc"}, [("", 5), ("a", 5), ("b", 5)],
         "waits for c"),
        # The holder ended after this job was enqueued, and its result is gone or was not an end.
        ([("a", True), ("job-1", False)], {}, [("", 5), ("", 0)], "holds"),
        ([("a", True), ("b", False)], {"a": ended(states.REVOKED)}, [("", 5), ("", 0)],
         "waits for b"),
        ([("a", True)], {"a": ended(states.SUCCESS, RESULT)}, [("", 5)], "shares"),
    ],
)  # fmt: skip
async def test_a_job_looks_at_the_key_until_it_knows_which_job_holds_it(
    deduped: Dedupe, holders: list[tuple[str, bool]], stored: Any, looks: Any, end: str
) -> None:
    deduped.keys.join.side_effect = [Found(job, has_ended=over) for job, over in holders]
    deduped.stored = stored
    if end.startswith("waits"):
        with pytest.raises(Retry):
            await deduped()
        deduped.run.end_if_too_late.assert_called_once_with(may_be_done=False)
        deduped.run.join.assert_called_once_with(end.rpartition(" ")[2])
    else:
        assert await deduped() == RESULT
    assert deduped.looks() == looks
    assert deduped.work.await_count == (end == "holds")
    assert holds_key(deduped.request) is (end == "holds")


@pytest.mark.parametrize(
    ("deferrals", "pause_ms"), [(0, 1_000), (1, 2_000), (4, 16_000), (5, 30_000), (5_000, 30_000)]
)
async def test_a_job_looks_again_after_pauses_that_grow(
    deduped: Dedupe, deferrals: int, pause_ms: int
) -> None:
    deduped.run.history.deferrals = deferrals
    deduped.keys.join.return_value = Found("a", has_ended=False)
    with pytest.raises(Retry):
        await deduped()
    [(why,)] = [each.args for each in deduped.run.reschedule.await_args_list]
    assert (why.countdown_ms, why.reason, why.code) == (
        pause_ms,
        "another job with its dedupe_key is open",
        "same_job",
    )


async def test_a_job_comes_back_if_redis_stays_down_and_ends_by_its_deadline(
    deduped: Dedupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Deferred(1_000, "Redis does not answer", "redis_down")

    async def asks(ask: Callable[[], Awaitable[Found]]) -> Found:
        with pytest.raises(LostError):
            await ask()
        raise away

    deduped.keys.join.side_effect = LostError("gone")
    monkeypatch.setattr(dedupe, "retry_while_down", asks)
    with pytest.raises(Retry):
        await deduped()
    assert deduped.run.reschedule.await_args_list == [call(away)]
    monkeypatch.undo()
    late = RequestRejected("too late")
    deduped.run.end_if_too_late.side_effect = late
    with pytest.raises(JobError, match="too late"):
        await dedupe._await(deduped.run, "a")
    deduped.run.join.assert_not_called()


async def test_while_the_result_store_is_down_no_end_is_known(
    deduped: Dedupe, caplog: pytest.LogCaptureFixture
) -> None:
    deduped.task.backend.get_task_meta = Mock(side_effect=OSError("canary"))
    with caplog.at_level("DEBUG", "worker"):
        assert await dedupe._end_of(deduped.task, "a") is None
    assert caplog.messages == ["cannot read the result of a (OSError)"]
    assert deduped.task.backend.get_task_meta.call_args == call("a", cache=False)
