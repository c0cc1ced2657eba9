"""A job ends even if its dedupe key cannot be written; a job that has joined it ends like it."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import states
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own

from worker.errors import RequestRejected
from worker.jobs import dedupe
from worker.jobs.dedupe import _RECORD, DedupeKeys, _note_end, release_key

REQUEST = SimpleNamespace(id="job-1", **{_RECORD: "kw:dedupe:x"})


class BrokenKeys(DedupeKeys):
    def __init__(self, error: Exception | None) -> None:
        self.error, self.commands = error, list[object]()

    async def end(self, record: str, job: str, *, keep_ms: int) -> None:
        self.commands.append(("end", record, job, keep_ms))
        if self.error is not None:
            raise self.error

    async def release(self, record: str, job: str) -> list[str]:
        self.commands.append(("release", record, job))
        if self.error is not None:
            raise self.error
        return ["job-2", "job-3"]


@pytest.mark.parametrize("error", [None, ConnectionError("gone"), OSError("gone")])
async def test_a_key_that_cannot_be_written_ends_no_job(
    error: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "worker")
    keys, woken = BrokenKeys(error), list[Any]()

    async def wake(jobs: Any) -> None:
        woken.append(jobs)

    await _note_end(keys, "kw:dedupe:x", "job-1", 7)
    await release_key(REQUEST, keys, wake)
    assert keys.commands == [
        ("end", "kw:dedupe:x", "job-1", 7),
        ("release", "kw:dedupe:x", "job-1"),
    ]
    assert woken == ([] if error else [["job-2", "job-3"]])
    kind = type(error).__name__
    assert (
        caplog.messages
        == [
            f"the end of a dedupe key's job is not noted ({kind})",
            f"a dedupe key could not be freed ({kind})",
        ][: 2 * bool(error)]
    )


async def test_the_end_of_a_job_without_a_stored_result_is_not_noted() -> None:
    keys = BrokenKeys(None)
    await _note_end(keys, "kw:dedupe:x", "job-1", 0)
    assert keys.commands == []


# A job's record in the result store, and the end of a job that has joined it; None: it looks again.
@pytest.mark.parametrize(
    ("stored", "end"),
    [
        ({"status": states.SUCCESS, "result": {"id": "1"}}, "{'id': '1'}"),
        ({"status": states.FAILURE, "result": RequestRejected("no")}, "RequestRejected('no')"),
        (
            {"status": states.FAILURE, "result": ValueError("a prompt")},
            "ValueError('job-1, which this job had joined, ended with this error')",
        ),
        ({"status": states.REVOKED, "result": None}, "taken back"),
        ({"status": states.STARTED, "result": None}, "None"),
        ({"status": states.SUCCESS, "result": "of another program"}, "taken back"),
        ({}, "None"),
    ],
)
async def test_a_job_that_has_joined_another_ends_in_the_same_way_without_the_text_of_a_users_error(
    stored: dict[str, Any], end: str
) -> None:
    task: Any = SimpleNamespace(backend=SimpleNamespace(get_task_meta=lambda *_, **__: stored))
    outcome = await dedupe._end_of(task, "job-1")
    assert end == ("taken back" if isinstance(outcome, dedupe._Withdrawn) else repr(outcome))
