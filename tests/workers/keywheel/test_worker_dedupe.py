"""Jobs with the same `dedupe_key`: the first one runs, the others share its end."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery.result import AsyncResult

from keywheel_client import Keywheel, Pipeline
from tests.fleets import Stack
from tests.processes import eventually

KEY = "report-42"


@pytest.fixture
def client(fresh: Stack) -> Iterator[Any]:
    with redis.Redis.from_url(fresh.redis_url, decode_responses=True) as connection:
        yield connection
        assert connection.keys("kw:dedupe:*") == [], "a key is left when its jobs have ended"


def send(stack: Stack, **kwargs: Any) -> AsyncResult:
    arguments = {"prompt": "Say hello", "dedupe_key": KEY} | kwargs
    return stack.producer.send("tasks.ai.complete", **arguments)


def waits_for_another(job: AsyncResult) -> bool:
    meta = job.backend.get_task_meta(job.id, cache=False)
    return meta["status"] == "RETRY" and "dedupe_key is open" in str(meta["result"])


def calls(stack: Stack) -> int:
    count: int = stack.sandbox.ledger()["services"]["groq"]["calls"]
    return count


def test_jobs_join_the_open_one_and_get_its_result(fresh: Stack, client: Any) -> None:
    fresh.sandbox.control("fault", service="groq", kind="hang", hang_s=3, count=1)
    first = send(fresh)
    eventually(lambda: client.keys("kw:dedupe:*"), what="the first job's hold")
    others = [send(fresh, stream=number == 0) for number in range(3)]
    for other in others:
        eventually(lambda other=other: waits_for_another(other), what="a job that joined")
    answer = fresh.producer.outcome(first)
    assert [fresh.producer.outcome(other) for other in others] == [answer] * 3
    assert calls(fresh) == 1
    records = [fields for _, fields in client.xrange(f"kw:stream:{others[0].id}")]
    assert [fields["type"] for fields in records][-3:] == ["restart", "delta", "end"]
    assert "".join(fields.get("text", "") for fields in records) == answer["text"]

    again = fresh.producer.outcome(send(fresh))
    assert again["text"]
    assert calls(fresh) == 2, "the first job has ended, so its key is free"


def test_jobs_join_one_that_ended_while_they_were_in_their_queue(fresh: Stack, client: Any) -> None:
    pipe = Pipeline(track_started=False)
    queued = [pipe.complete("Say hello", dedupe_key=KEY, stream=n == 0) for n in range(2)]
    queued += [pipe.complete("Say hello", dedupe_key=key) for key in ("gone", "wrong")]
    pushes = pipe.pushes(client.time())  # and other jobs come first, until the first has ended
    answer = fresh.producer.outcome(send(fresh))
    gone = send(fresh, dedupe_key="gone")
    fresh.producer.outcome(gone)
    gone.forget()
    error = fresh.producer.outcome(send(fresh, dedupe_key="wrong", model="none"))
    made = calls(fresh)
    for push in pushes:
        client.lpush(*push)
    *results, new, failed = map(fresh.producer.outcome, map(fresh.producer.app.AsyncResult, queued))
    assert results == [answer] * 2
    assert new["text"], "the earlier job has no result left to share"
    assert [type(job).__name__ for job in (failed, error)] == ["RequestRejected"] * 2
    assert str(failed) == str(error)
    records = [fields for _, fields in client.xrange(f"kw:stream:{queued[0]}")]
    assert "".join(fields.get("text", "") for fields in records) == answer["text"]
    assert calls(fresh) == made + 1
    with Keywheel(fresh.redis_url) as keywheel:
        assert keywheel.result(keywheel.complete("Say hello", dedupe_key=KEY))["text"]
    assert calls(fresh) == made + 2, "the job was enqueued after the first had ended"


def test_jobs_share_the_error_of_the_open_one(fresh: Stack, client: Any) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=600)
    first = send(fresh, deadline_s=3)
    eventually(lambda: client.keys("kw:dedupe:*"), what="the first job's hold")
    other = send(fresh)
    error = fresh.producer.outcome(other)
    assert type(error).__name__ == "DeadlineExceeded"
    assert str(error) == str(fresh.producer.outcome(first))
    assert calls(fresh) <= 3


def test_a_job_that_joined_runs_when_the_open_job_is_cancelled(fresh: Stack, client: Any) -> None:
    fresh.sandbox.control("exhaust", service="groq", seconds=600)
    first = send(fresh)
    eventually(lambda: first.state == "RETRY", what="the first job deferred")
    other = send(fresh)
    eventually(lambda: waits_for_another(other), what="a job that joined")
    fresh.producer.app.control.revoke(first.id)
    eventually(lambda: first.state == "REVOKED", what="the first one's end")
    fresh.sandbox.control("reset")
    fresh.producer.ask("tasks.admin.reset_keys")
    assert fresh.producer.outcome(other, within_s=40)["text"]


def test_a_key_whose_job_ended_with_its_worker_is_taken_over(fresh: Stack, client: Any) -> None:
    fresh.sandbox.control("fault", service="groq", kind="hang", hang_s=1, count=1)
    first = send(fresh)
    [record] = eventually(lambda: client.keys("kw:dedupe:*"), what="the first job's hold")
    fresh.producer.outcome(first)
    eventually(lambda: not client.exists(record), what="the free key")
    client.set(record, first.id, px=600_000)  # as if the worker had died before it released the key
    assert fresh.producer.outcome(send(fresh))["text"]
    assert calls(fresh) == 2


def test_emails_are_sent_once_and_tasks_have_keys_of_their_own(fresh: Stack, client: Any) -> None:
    fresh.sandbox.control("exhaust", service="resend", seconds=2)
    mail = {"to": "ann@example.com", "subject": "Hi", "text": "Hello", "dedupe_key": KEY}
    sent = [fresh.producer.send("tasks.email.send", **mail) for _ in range(3)]
    assert fresh.producer.outcome(send(fresh))["text"]
    assert len({fresh.producer.outcome(job, within_s=40)["id"] for job in sent}) == 1
    assert fresh.sandbox.ledger()["judgement"]["emails_accepted"] == 1
