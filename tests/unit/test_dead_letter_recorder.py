"""The end of a job whose dead letter cannot be written, or exists already; no Redis."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery.exceptions import Reject
from redis.exceptions import ConnectionError as LostError

from worker.aio import lifespan
from worker.aio.redis_retry import RECORD
from worker.deadletters import recorder as recorder_module
from worker.deadletters.dead_letter import DeadLetter, Message
from worker.deadletters.recorder import Recorder

LETTER = DeadLetter(
    id="job-1", task="tasks.x", queue="q", service="", kind="failed", reason="no", delivery="tag"
)
CONTEXT = SimpleNamespace(id="job-1")


class Records:
    """A recorder, whose store gives planned answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Mock(
            put=AsyncMock(), get=AsyncMock(return_value=(LETTER, None)), delete=AsyncMock(),
            has=AsyncMock(return_value=True), limits=SimpleNamespace(message_bytes=1000),
        )  # fmt: skip
        self.recorder = Recorder(lambda: self.store)
        self.capture = Mock(return_value=(LETTER, Message()))
        self.later = Mock(return_value=True)
        monkeypatch.setattr(recorder_module, "capture_job", self.capture)
        monkeypatch.setattr(recorder_module, "capture_message", self.capture)
        monkeypatch.setattr(recorder_module, "send_later", self.later)
        monkeypatch.setattr(recorder_module, "delivery_of", lambda _: "tag")


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    return Records(monkeypatch)


async def once(ask: Any, policy: Any) -> None:
    assert policy is RECORD
    await ask()


# The store's answer, whether the dead letter counts as written, and the log line.
@pytest.mark.parametrize(
    ("error", "is_written", "words"),
    [
        (None, True, None),
        (LostError("gone"), False, "ConnectionError"),
        (TimeoutError(), False, "TimeoutError"),
        (ValueError("canary"), True, "ValueError"),  # would come again with the message
    ],
)
async def test_a_job_goes_back_only_if_its_letter_may_be_written_later(
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    words: str | None,
    *,
    is_written: bool,
) -> None:
    monkeypatch.setattr(recorder_module, "retried", once)
    records.store.put.side_effect = error
    exc = KeyError()
    if is_written:
        await records.recorder.record_job(CONTEXT, "tasks.x", exc)
    else:
        with pytest.raises(Reject) as rejected:
            await records.recorder.record_job(CONTEXT, "tasks.x", exc)
        assert rejected.value.requeue is True
        assert rejected.value.reason == "its dead letter cannot be written yet"
    assert records.capture.call_args == call(CONTEXT, "tasks.x", exc)
    assert records.store.put.await_args == call(LETTER, Message().text())
    ended = "tasks.x[job-1] ended as failed: no"
    assert caplog.messages == ([f"cannot keep a dead letter ({words}): {ended}"] if words else [])


async def test_a_bug_in_the_capture_ends_no_job(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    records.capture.side_effect = ValueError("canary")
    await records.recorder.record_job(CONTEXT, "tasks.x", KeyError())
    assert records.recorder.record_request(CONTEXT, "tasks.x", KeyError()) is True
    records.recorder.record_message("message", reason="no job")
    assert caplog.messages == [
        "cannot keep a dead letter (ValueError): tasks.x",
        "cannot keep a dead letter (ValueError): tasks.x",
        "cannot keep a dead letter (ValueError): no job",
    ]


@pytest.mark.parametrize("answer", [True, False, TimeoutError()])
def test_the_consumer_waits_three_seconds_for_a_letter(
    records: Records, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    effect = {"side_effect" if isinstance(answer, Exception) else "return_value": answer}
    result = Mock(**effect)

    def submit(coroutine: Any) -> Any:
        coroutine.close()
        return SimpleNamespace(result=result)

    monkeypatch.setattr(lifespan, "submit", submit)
    written = records.recorder.record_request(CONTEXT, "tasks.x", KeyError())
    assert written is (answer is True)
    records.recorder.record_message("message", reason="no job", runnable=True)
    assert records.capture.call_args == call("message", reason="no job", runnable=True)
    assert result.call_args_list == [call(3.0)] * 2


# The delivery of this message, the store's answer; the returned reason.
@pytest.mark.parametrize(
    ("delivery", "answer", "reason"),
    [
        ("tag", (LETTER, None), "no"),
        ("another", (LETTER, None), None),  # of an earlier message of the job
        ("", (LETTER, None), None),
        ("tag", KeyError("job-1"), None),
        ("tag", LostError("gone"), None),
    ],
)
async def test_the_earlier_failure_of_the_job_of_a_message_is_found(
    records: Records,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    delivery: str,
    answer: Any,
    reason: str | None,
) -> None:
    monkeypatch.setattr(recorder_module, "delivery_of", lambda _: delivery)
    effect = {"side_effect" if isinstance(answer, Exception) else "return_value": answer}
    records.store.get = AsyncMock(**effect)
    with caplog.at_level("DEBUG", "worker"):
        assert await records.recorder.earlier_failure(CONTEXT) == reason
    words = "cannot look up whether job-1 has ended, so it runs: ConnectionError"
    assert caplog.messages == [words] * isinstance(answer, LostError)
    records.store.get = AsyncMock(side_effect=ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await records.recorder.earlier_failure(CONTEXT)


@pytest.mark.parametrize("there", [True, False])
async def test_the_letter_of_a_job_that_succeeded_is_deleted(
    records: Records, *, there: bool
) -> None:
    records.store.has.return_value = there
    await records.recorder.remove("job-1")
    deleted = [call([LETTER], by="", event="")] * there
    assert records.store.delete.await_args_list == deleted
    records.store.get.side_effect = KeyError  # a person deleted it meanwhile
    await records.recorder.remove("job-1")
    assert records.store.delete.await_args_list == deleted
    records.later.assert_not_called()


@pytest.mark.parametrize("later", [True, False])
async def test_a_letter_that_cannot_be_deleted_now_is_deleted_later_or_by_hand(
    records: Records, caplog: pytest.LogCaptureFixture, *, later: bool
) -> None:
    records.later.return_value = later
    records.store.has.side_effect = error = LostError("gone")
    await records.recorder.remove("job-1")
    [(again, why)] = [each.args for each in records.later.call_args_list]
    assert why is error
    words = (
        "job-1 succeeded, but its dead letter may still exist (ConnectionError); drop it by hand"
    )
    assert caplog.messages == [words] * (not later)
    records.store.has.side_effect = None
    await asyncio.wait_for(again(), 10)
    assert records.store.delete.await_count == 1
