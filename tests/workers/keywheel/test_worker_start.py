"""The start of a worker, and the message if it fails."""

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sandbox.redis import EmbeddedRedis, free_port
from tests.fleets import Stack
from tests.processes import ALONE, CELERY, READY_S, Producer, Worker, eventually, inspected

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

Start = Callable[..., Worker]


@pytest.fixture
def start(stack: Stack, tmp_path: Path) -> Iterator[Start]:
    started: list[Worker] = []

    def begin(
        *arguments: str, command: tuple[str, ...] = ALONE, stdout: str = "", **changes: str
    ) -> Worker:
        # The project's own modules are not in the folder of these workers.
        given = stack.environ | {"KEYWHEEL_TASKS": ""} | changes
        environ = {name: value for name, value in given.items() if value}
        started.append(
            Worker(
                tmp_path,
                environ,
                *arguments,
                name=f"s{len(started)}",
                command=command,
                stdout=stdout,
            )
        )
        return started[-1]

    yield begin
    for worker in started:
        worker.stop()


def without(stack: Stack, service: str) -> dict[str, str]:
    return {name: "" for name in stack.environ if name.startswith(f"{service.upper()}_API_KEY")}


# Wrong settings, and the message about each: when they are read, before a connection is made, and
# on the command line. tests/unit/test_start_refused.py has further cases, without a process.
@pytest.mark.parametrize(
    ("command", "changes", "sentences"),
    [
        (
            ALONE,
            {
                "KEYWHEEL_MAX_RETRIES": "many",  # not a number
                "REDIS_URL": "http://:canary-password@localhost",  # not Redis
                "ADMIN_TOKEN": "short",  # too easy to guess
            },
            [
                "KEYWHEEL_MAX_RETRIES must be a whole number.",
                "REDIS_URL must start with redis://",
                "ADMIN_TOKEN must have 16 random characters or more.",
            ],
        ),
        (
            CELERY,
            {"ALL_PROXY": "socks5://u:canary-password@x:1"},
            ["ALL_PROXY names a socks5:// proxy"],
        ),  # no call could be made
        (
            (*ALONE, "--logfile=none/worker"),
            {},
            ["The file of --logfile cannot be opened: No such file or directory."],
        ),
    ],
)
def test_each_wrong_setting_ends_the_start_with_a_sentence(
    start: Start, command: tuple[str, ...], changes: dict[str, str], sentences: list[str]
) -> None:
    worker = start(command=command, **changes)
    assert worker.await_exit() == 1
    for sentence in sentences:
        assert sentence in worker.log
    assert "Traceback" not in worker.log
    assert "canary-password" not in worker.log


def test_the_sentence_of_a_start_that_fails_is_json_if_the_logs_are(start: Start) -> None:
    worker = start(command=CELERY, KEYWHEEL_LOG_FORMAT="json", ADMIN_TOKEN="short")
    assert worker.await_exit() == 1
    *_, last = [json.loads(line) for line in worker.log.splitlines()]
    assert (last["level"], last["logger"]) == ("CRITICAL", "worker.celery")
    assert last["message"].endswith("ADMIN_TOKEN must have 16 random characters or more.")


def test_a_module_of_tasks_that_imports_what_is_missing_ends_the_start_with_one_sentence(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text("import no_such.package\n")
    worker = start(KEYWHEEL_TASKS="shop")
    assert worker.await_exit() == 1
    assert "names shop, which imports no_such, and that is missing: install it" in worker.log
    assert "Traceback" not in worker.log


def test_json_logs_are_json_from_first_to_last_with_typos_a_missing_env_and_a_taken_name(
    stack: Stack, start: Start, tmp_path: Path
) -> None:
    changes = {"KEYWHEEL_LOG_FORMAT": "json", "RESEND_FORM": "x"}
    first = start(command=CELERY, **changes).await_ready()
    environ = stack.environ | {"KEYWHEEL_TASKS": ""} | changes
    second = Worker(tmp_path / "second", environ, name="s0", command=ALONE)
    try:
        second.await_ready()
        eventually(
            lambda: "another worker has the name s0@test" in first.log + second.log,
            what=f"a warning in {first.log_path} or {second.log_path}",
        )
    finally:
        second.stop()
    first.stop()
    lines = [json.loads(line) for worker in (first, second) for line in worker.log.splitlines()]
    messages = "\n".join(line["message"] for line in lines)
    assert "RESEND_FORM is not a setting and has no effect; did you mean RESEND_FROM?" in messages
    assert f"There is no .env in {tmp_path}" in messages
    assert "worker: Warm shutdown (MainProcess)" in messages


def test_no_key_at_all_ends_the_start_with_what_to_set(stack: Stack, start: Start) -> None:
    worker = start(**without(stack, "groq"), **without(stack, "resend"))
    assert worker.await_exit() == 1
    assert (
        "No usable API key was found, so no job could ever run: set at least one of GROQ_API_KEY"
        in worker.log
    )
    assert "Traceback" not in worker.log


def test_a_worker_without_groq_keys_leaves_the_queue_ai_to_others_and_logs_to_a_file(
    stack: Stack, start: Start, tmp_path: Path
) -> None:
    worker = start("--logfile=%n.txt", command=CELERY, **without(stack, "groq"))
    file = tmp_path / "s0.txt"
    eventually(
        lambda: file.exists() and " ready." in file.read_text(),
        within_s=READY_S,
        what="a worker that is ready",
    )
    assert "this worker does not consume the queue ai" in file.read_text()
    names = {queue["name"] for queue in inspected(stack.producer.app, worker.name, "active_queues")}
    assert {"email", "admin"} <= names
    assert not any(name.startswith("ai") for name in names)


def test_a_reload_takes_the_queue_of_a_service_that_has_keys_now_and_leaves_the_other(
    stack: Stack, start: Start, tmp_path: Path
) -> None:
    worker = start(
        **without(stack, "resend"),
        **without(stack, "groq"),
        GROQ_API_KEY_FILE=str(tmp_path / "groq"),
    )
    (tmp_path / "groq").write_text(stack.environ["GROQ_API_KEY"])
    worker.await_ready()
    control = stack.producer.app.control

    def consumed() -> set[str]:
        return {
            queue["name"] for queue in inspected(stack.producer.app, worker.name, "active_queues")
        }

    assert consumed() == {"ai", "ai.deferred", "admin"}
    (tmp_path / "groq").unlink()
    (tmp_path / ".env").write_text(f"RESEND_API_KEY={stack.environ['RESEND_API_KEY']}\n")
    [reply] = control.broadcast(
        "keys_reload", destination=[worker.name], reply=True, timeout=10, limit=1
    )
    assert reply[worker.name] == {"ok": "0 groq, 1 resend"}
    eventually(
        lambda: consumed() == {"email", "email.deferred", "admin"}, what="the change of queues"
    )
    (tmp_path / "groq").write_text(stack.environ["GROQ_API_KEY"])
    far_us = (time.time() + 86_400) * 1e6
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as client:
        client.zadd(
            "ai.deferred.due", {"job-1": far_us}
        )  # a job that waits for a quota until tomorrow
        control.broadcast("keys_reload", destination=[worker.name], reply=True, timeout=10, limit=1)
        eventually(lambda: {"ai", "ai.deferred", "email"} <= consumed(), what="the queue's return")
        eventually(
            lambda: client.zscore("ai.deferred.due", "job-1") != far_us,
            what="a new key for who waits",
        )
        client.delete("ai.deferred.due")


def test_a_worker_warns_of_keys_that_cannot_be_used(stack: Stack, start: Start) -> None:
    worker = start(
        KEYWHEEL_CHECK_KEYS_S="3600",
        GROQ_API_KEY_9="gsk_" + "Zq7" * 17 + "x",
        GROQ_MODEL="no-such-model",
    )
    worker.await_ready()
    worker.await_log("is not accepted: Invalid API Key (HTTP 401)")
    worker.await_log(
        "no groq key may use no-such-model: set GROQ_MODEL to one of openai/gpt-oss-120b"
    )


def test_a_worker_that_starts_on_a_full_redis_waits_for_room(start: Start, tmp_path: Path) -> None:
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        client.config_set("maxmemory", 1)
        worker = start(REDIS_URL=server.url)
        worker.await_log("OutOfMemoryError", within_s=30)
        client.config_set("maxmemory", 0)
        worker.await_ready()


def test_a_worker_starts_before_redis_and_works_once_it_is_there(
    start: Start, tmp_path: Path
) -> None:
    port = free_port()
    worker = start(REDIS_URL=f"redis://127.0.0.1:{port}/0")
    worker.await_log("Cannot connect to redis://")
    assert re.search(
        rf"Cannot connect to redis://\S*127\.0\.0\.1:{port}/0: .*Connection refused", worker.log
    )
    assert "Trying again in" in worker.log
    assert worker.process.poll() is None
    with EmbeddedRedis(data_dir=tmp_path / "redis", port=port) as server:
        producer = Producer(server.url)
        worker.await_ready()
        assert producer.ask("tasks.ai.complete", prompt="x")["text"]
        producer.close()
        worker.stop()
    assert "Traceback" not in worker.log


def test_no_event_is_left_behind_when_a_worker_ends(stack: Stack, start: Start) -> None:
    worker = start("-Q", "probe", stdout="/dev/full").await_ready()
    assert "nothing can be written to the standard output (No space left on device): " in worker.log
    stack.sandbox.control(
        "fault", service="groq", kind="hang_before", hang_s=1, count=1
    )  # then it is interrupted
    types: list[str] = []
    retried: list[dict[str, Any]] = []
    with stack.producer.app.connection_for_read() as connection:

        def hear(event: dict[str, Any]) -> None:
            if event["hostname"] == worker.name:
                types.append(event["type"])
                retried.extend([event] if event["type"] == "task-retried" else [])
            if event["type"] == "task-started":
                worker.process.send_signal(
                    signal.SIGTERM
                )  # the job ends after the consumer's loop has
            receiver.should_stop = event["type"] == "task-retried" or time.monotonic() > deadline_s

        deadline_s = time.monotonic() + 30
        receiver = stack.producer.app.events.Receiver(connection, handlers={"*": hear})
        consumer = receiver.itercapture(limit=None, timeout=20, wakeup=False)
        next(consumer)
        stack.producer.send("tasks.ai.complete", queue="probe", prompt="hi")
        for _ in consumer:
            pass
    assert [kind for kind in types if kind.startswith("task-")] == [
        "task-received",
        "task-started",
        "task-retried",
    ]
    # The fields that Flower's metrics read.
    assert retried[0]["name"] == "tasks.ai.complete"
    assert retried[0]["countdown_s"] > 0
    assert retried[0]["waits"]["kind"] == "failure"
    assert worker.await_exit() == 0
