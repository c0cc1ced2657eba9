"""Results posted to a URL: a signed POST for every end of a job, until it is accepted."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.fleets import WIDE_LIMITS, Stack
from tests.processes import Producer, eventually, workers
from tests.workers.keywheel.notification_receiver import SECRETS, Receiver, verified
from worker.aio.transport.headers import DEATHS
from worker.jobs.history import ALONE, History

CANARY = "canary-7c1f"
HIDDEN = "<hidden>"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Receiver]:
    receiver = Receiver()
    with ThreadingHTTPServer(("127.0.0.1", 0), receiver.handler()) as server:
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def stack_and_receiver(
    tmp_path_factory: pytest.TempPathFactory, endpoint: Receiver
) -> Iterator[tuple[Stack, Receiver]]:
    folder = tmp_path_factory.mktemp("notify")
    with (
        EmbeddedRedis(data_dir=folder / "redis") as server,
        Sandbox(groq_keys=2, **WIDE_LIMITS) as sandbox,
    ):
        hosts = f"127.0.0.1:{endpoint.port}=private, localhost:{endpoint.port}"
        environ = sandbox.env() | {
            "REDIS_URL": server.url,
            "KEYWHEEL_NOTIFY_HOSTS": hosts,
            "KEYWHEEL_NOTIFY_SECRET": ",".join(SECRETS),
            "KEYWHEEL_RETRY_BACKOFF_S": "0.05",
        }
        producer = Producer(server.url)
        with workers(folder, environ) as [worker]:
            yield Stack(server.url, sandbox, environ, worker, producer, folder), endpoint
            assert CANARY not in worker.log
            assert not any(secret in worker.log for secret in SECRETS)
        producer.close()


@pytest.fixture
def stack(stack_and_receiver: tuple[Stack, Receiver]) -> Stack:
    stack, _ = stack_and_receiver
    stack.sandbox.control("reset")
    stack.producer.ask("tasks.admin.reset_keys")
    return stack


@pytest.fixture
def receiver(stack_and_receiver: tuple[Stack, Receiver]) -> Iterator[Receiver]:
    _, receiver = stack_and_receiver
    receiver.statuses.clear()
    yield receiver
    assert receiver.posts.empty(), "each end is posted once"


def complete(stack: Stack, receiver: Receiver, **options: Any) -> str:
    kwargs = {"prompt": f"Say {CANARY}", "notify": receiver.url} | options.pop("kwargs", {})
    sender = stack.producer.sender
    return str(sender.send_task("tasks.ai.complete", kwargs=kwargs, queue="ai", **options).id)


def test_a_result_is_posted_and_leaves_nothing_behind(stack: Stack, receiver: Receiver) -> None:
    job = complete(stack, receiver)
    post = receiver.take()
    result = stack.producer.outcome(stack.producer.app.AsyncResult(job))
    data = {"id": job, "task": "tasks.ai.complete", "state": "SUCCESS", "result": result}
    assert verified(post) == {"type": "job.succeeded", "data": data}
    assert post["path"] == "/done?for=ann"
    client = stack.producer.app.backend.client
    eventually(lambda: client.hlen("unacked") == 0, what="the end of the notification's job")
    assert client.keys("*msg_*") == []


def test_a_failure_is_posted_with_its_error(stack: Stack, receiver: Receiver) -> None:
    job = complete(stack, receiver, kwargs={"temperature": 9})
    event = verified(receiver.take())
    assert event["type"] == "job.failed"
    error = event["data"].pop("error")
    assert error["type"] == "InvalidArguments"
    assert error["message"].startswith("temperature: must be less than or equal to 2")
    assert event["data"] == {"id": job, "task": "tasks.ai.complete", "state": "FAILURE"}


def _expired(stack: Stack, receiver: Receiver) -> str:
    return complete(stack, receiver, expires=datetime.now(UTC) - timedelta(seconds=1))


def _revoked_while_it_waits(stack: Stack, receiver: Receiver) -> str:
    stack.sandbox.control("exhaust", service="groq", seconds=600)
    job = complete(stack, receiver)
    result = stack.producer.app.AsyncResult(job)
    eventually(lambda: result.state == "RETRY", what="a deferred job")
    stack.producer.app.control.revoke(job)
    return job


def _revoked_before_it_begins(stack: Stack, receiver: Receiver) -> str:
    client = stack.producer.app.backend.client
    client.set("kw:cancelled:revoked-early", "1", ex=60)
    return complete(stack, receiver, task_id="revoked-early")


def _poisoned(stack: Stack, receiver: Receiver) -> str:
    return complete(stack, receiver, headers={DEATHS: 5, ALONE: 5})


def _out_of_time(stack: Stack, receiver: Receiver) -> str:
    stack.sandbox.control("fault", service="groq", kind="hang", hang_s=20, count=1)
    return complete(stack, receiver, time_limit=1)


@pytest.mark.parametrize(
    ("end", "state", "error"),
    [
        (_expired, "REVOKED", "DeadlineExceeded"),
        (_revoked_while_it_waits, "REVOKED", "TaskRevokedError"),
        (_revoked_before_it_begins, "REVOKED", "TaskRevokedError"),
        (_poisoned, "FAILURE", "Poisoned"),
        (_out_of_time, "FAILURE", "TimeLimitExceeded"),
    ],
)
def test_every_other_end_is_posted_too(
    stack: Stack,
    receiver: Receiver,
    end: Callable[[Stack, Receiver], str],
    state: str,
    error: str,
) -> None:
    job = end(stack, receiver)
    event = verified(receiver.take())
    assert (event["data"]["id"], event["data"]["state"]) == (job, state)
    assert event["data"]["error"]["type"] == error
    result = stack.producer.app.AsyncResult(job)
    eventually(lambda: result.state == state, what="the same end in the result store")


def test_a_post_that_failed_is_repeated_and_a_redirect_is_not_followed(
    stack: Stack, receiver: Receiver
) -> None:
    before = receiver.refused
    receiver.statuses += [500, 302, 429]
    complete(stack, receiver)
    post = receiver.take()
    assert verified(post)["type"] == "job.succeeded"
    assert receiver.refused == before + 3


def dead_letters(stack: Stack) -> list[dict[str, Any]]:
    reply = stack.producer.ask("tasks.admin.dead_letters", task="tasks.notify.post")
    letters: list[dict[str, Any]] = reply["dead_letters"]
    return letters


def test_a_notification_that_its_receiver_rejects_is_a_dead_letter_that_can_be_replayed(
    stack: Stack, receiver: Receiver
) -> None:
    receiver.statuses.append(410)
    job = complete(stack, receiver)
    [letter] = eventually(lambda: dead_letters(stack), what="a dead letter")
    assert letter["reason"] == (
        "RequestRejected: the receiver answers 410: it wants no notifications any more"
    )
    stack.producer.ask("tasks.admin.replay", id=letter["id"])
    assert verified(receiver.take())["data"]["id"] == job
    eventually(lambda: not dead_letters(stack), what="the end of the dead letter")


def test_a_notification_is_tried_for_a_day(stack: Stack, receiver: Receiver) -> None:
    message_id = f"msg_{'a' * 32}"

    def old(hours: float) -> None:
        since_ms = round((time.time() - hours * 3_600) * 1_000)
        event = {"type": "job.succeeded", "timestamp": datetime.now(UTC).isoformat(), "data": {}}
        stack.producer.sender.send_task(
            "tasks.notify.post",
            kwargs={"url": receiver.url, "message_id": message_id, "event": event},
            queue="notify",
            headers=History(since_ms).headers(),
        )

    before = receiver.refused
    receiver.statuses.append(500)
    old(hours=23.9)
    assert receiver.take()["headers"]["webhook-id"] == message_id
    receiver.statuses.append(500)
    old(hours=24.1)
    [letter] = eventually(lambda: dead_letters(stack), what="a dead letter")
    assert letter["reason"] == (
        "DeadlineExceeded: not delivered within a day (1 tries): the receiver answers 500"
    )
    assert receiver.refused == before + 2
    client = stack.producer.app.backend.client
    client.delete(*client.keys("{kw:dead}:*"))


def test_a_name_that_leads_to_a_private_address_gets_nothing(
    stack: Stack, receiver: Receiver
) -> None:
    before = receiver.refused
    complete(stack, receiver, kwargs={"notify": f"https://localhost:{receiver.port}/done"})
    [letter] = eventually(lambda: dead_letters(stack), what="a dead letter")
    assert letter["reason"].startswith("InvalidArguments: url: its host has a private address")
    assert receiver.refused == before
    client = stack.producer.app.backend.client
    client.delete(*client.keys("{kw:dead}:*"))


@pytest.mark.parametrize(
    "url",
    ["https://example.com/x", "http://127.0.0.1/x", "http://a@127.0.0.1/", f"file:///{CANARY}", ""],
)
def test_a_url_that_is_not_listed_fails_its_job(stack: Stack, url: str) -> None:
    error = stack.producer.ask("tasks.ai.complete", prompt="x", notify=url)
    assert type(error).__name__ == "InvalidArguments"
    assert str(error).startswith("notify: ")
    assert CANARY not in str(error)


def test_the_message_of_a_notification_hides_its_content_from_tools(
    stack: Stack, receiver: Receiver
) -> None:
    client = stack.producer.app.backend.client
    receiver.statuses += [500] * 12
    complete(stack, receiver)
    messages = eventually(lambda: client.hvals("notify.deferred.due.texts"), what="a deferred post")
    headers = json.loads(messages[0])["headers"]
    assert (headers["argsrepr"], headers["kwargsrepr"]) == (HIDDEN, HIDDEN)
    receiver.statuses.clear()
    assert verified(receiver.take())["type"] == "job.succeeded"


def test_a_success_whose_worker_died_before_it_was_posted_is_posted(
    stack: Stack, receiver: Receiver
) -> None:
    """The message comes again, and only its result is found: no call is made for it."""
    job = complete(stack, receiver)
    first = verified(receiver.take())
    calls = stack.sandbox.ledger()["services"]["groq"]["calls"]
    kwargs = {"prompt": f"Say {CANARY}", "notify": receiver.url}
    message = {
        "body": base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "tasks.ai.complete", "id": job, "redelivered": True},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "again",
            "delivery_info": {"exchange": "", "routing_key": "ai", "redelivered": True},
        },
    }
    stack.producer.app.backend.client.lpush("ai", json.dumps(message))
    assert verified(receiver.take()) == first
    assert stack.sandbox.ledger()["services"]["groq"]["calls"] == calls


def test_jobs_that_share_an_end_survive_a_kill_and_each_is_posted_once(
    stack_and_receiver: tuple[Stack, Receiver], receiver: Receiver, tmp_path: Path
) -> None:
    stack, _ = stack_and_receiver
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis") as server,
        Sandbox(groq_keys=2, **WIDE_LIMITS) as sandbox,
    ):
        ours = {"REDIS_URL": server.url, "KEYWHEEL_WORKER_LEASE_S": "2"}
        environ = stack.environ | sandbox.env() | ours
        producer = Producer(server.url)
        sandbox.control("fault", service="groq", kind="hang", hang_s=60, count=1)
        arguments = {"prompt": "Say hello", "dedupe_key": "k", "notify": receiver.url}
        with workers(tmp_path / "first", environ) as [worker]:
            first = producer.send("tasks.ai.complete", **arguments)
            eventually(lambda: sandbox.ledger()["services"]["groq"]["calls"] == 1, what="a call")
            second = producer.send("tasks.ai.complete", **arguments)
            eventually(lambda: second.state == "RETRY", what="a job that joined")
            worker.kill()
        with workers(tmp_path / "second", environ):
            answers = [producer.outcome(job, within_s=40) for job in (first, second)]
            assert answers[0] == answers[1]
            posted = [verified(receiver.take())["data"]["id"] for _ in answers]
            assert sorted(posted) == sorted([first.id, second.id])
        assert sandbox.ledger()["services"]["groq"]["calls"] == 2
        producer.close()
