"""How the consumer handles messages of jobs: settles them, holds them, and takes them once."""

import logging
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.worker import state

from tests.unit.unstarted_consumer import HEADERS, SECRET, Broker, consumer, message
from worker.hooks.consumer import without_gossip_and_mingle
from worker.hooks.rabbitmq import MOST_RETURNS


# The error of reading a message, and whether the consumer's loop gets it.
@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (redis.ConnectionError("gone"), True),
        (redis.ResponseError("READONLY"), True),
        (MemoryError(), True),
        (KeyError("id"), False),  # kombu counts it as an error of the broker
        (ValueError(SECRET), False),
        (AttributeError(SECRET), False),
    ],
)
def test_only_the_brokers_own_errors_reach_the_loop(
    error: Exception, passes: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker()

    def strategy(*_: Any) -> None:
        raise error

    handle = consumer(broker, strategy).create_task_handler()
    if passes:
        with pytest.raises(type(error)):
            handle(message(broker))
        assert broker.rejected == []
        return
    handle(message(broker))
    assert broker.rejected == ["t1"]
    assert "cannot store the failure of an unusable message (ConnectionError)" in caplog.text


@pytest.mark.parametrize(("configured_s", "sent_s"), [(None, 5), (2, 2)])
def test_a_worker_sends_nothing_that_grows_with_the_square_of_the_workers(
    configured_s: Any, sent_s: int
) -> None:
    options = without_gossip_and_mingle(
        {
            "without_gossip": False,
            "without_mingle": False,
            "heartbeat_interval": configured_s,
            "logfile": "x",
        }
    )
    assert options == {
        "without_gossip": True, "without_mingle": True, "heartbeat_interval": sent_s,
        "logfile": "x",
    }  # fmt: skip


@pytest.mark.parametrize("notes_acks", [True, False])
def test_a_message_is_settled_at_once_if_the_transport_only_notes_it(*, notes_acks: bool) -> None:
    broker, later = Broker(), []

    def strategy(_: Any, __: Any, ___: Any, reject: Any, *____: Any) -> None:
        reject(logging.getLogger(), (), False)

    receiver = consumer(broker, strategy)
    receiver.connection = SimpleNamespace(transport=SimpleNamespace(notes_acks=notes_acks))
    receiver.hub = SimpleNamespace(call_soon=later.append)
    receiver.create_task_handler()(message(broker))
    assert (broker.rejected, len(later)) == ((["t1"], 0) if notes_acks else ([], 1))


# How often RabbitMQ redelivered a message, and whether its job still runs.
@pytest.mark.parametrize(("returns", "runs"), [(None, True), (MOST_RETURNS, True), (17, False)])
def test_a_message_that_comes_back_to_rabbitmq_again_and_again_is_not_run(
    returns: int | None,
    runs: bool,  # noqa: FBT001 - a table
) -> None:
    run_requests: list[Any] = []
    broker = Broker()
    headers = HEADERS | {"x-death": [{"queue": "celery_delayed_1"}], "x-mine": "kept"}
    incoming = message(broker, headers | ({"x-delivery-count": returns} if returns else {}))
    incoming.delivery_info = {"routing_key": "0." * 27 + "1." + "ai.deferred"}
    consumer(broker, lambda run, *_: run_requests.append(run)).create_task_handler()(incoming)
    assert [run.headers for run in run_requests] == ([HEADERS | {"x-mine": "kept"}] if runs else [])
    assert incoming.delivery_info == {"routing_key": "ai.deferred"}
    assert broker.rejected == ([] if runs else ["t1"])


@pytest.mark.parametrize(("connection", "sent"), [(object(), 1), (None, 0)])
def test_a_job_whose_connection_is_gone_is_not_acknowledged_with_a_traceback(
    connection: Any, sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    acked: list[str] = []
    receiver = consumer(Broker(), None)
    receiver.hub = None
    incoming = message(Broker())
    incoming.channel = SimpleNamespace(
        no_ack_consumers=None, connection=connection, basic_ack=lambda tag, **_: acked.append(tag)
    )
    receiver.call_soon_ack(incoming.ack_log_error, logging.getLogger(), (OSError,))
    assert len(acked) == sent
    assert ("the broker delivers them again" in caplog.text) == (not sent)


class Running:
    """A job that runs in this process; the connection of its message was lost."""

    id = "job-1"
    acknowledged = False
    _on_ack: Any = None


# Whether the broker marks the message as redelivered, and whether its job still runs.
@pytest.mark.parametrize(
    ("redelivered", "acknowledged", "runs"),
    [(True, False, False), (True, True, True), (False, False, True)],
)
def test_a_job_that_runs_on_settles_its_message_when_it_comes_again(
    redelivered: bool,  # noqa: FBT001 - a table
    acknowledged: bool,  # noqa: FBT001
    runs: bool,  # noqa: FBT001
) -> None:
    run_requests: list[Any] = []
    receiver = consumer(Broker(), lambda run, *_: run_requests.append(run))
    running = Running()
    running.acknowledged = acknowledged
    incoming = message(Broker())
    incoming.delivery_info = {"redelivered": redelivered, "routing_key": "ai"}
    state.active_requests.add(running)
    try:
        receiver.create_task_handler()(incoming)
    finally:
        state.active_requests.discard(running)
    assert bool(run_requests) == runs
    assert (running._on_ack is not None) == (not runs)
    if not runs:
        assert running._on_ack.args == (incoming.ack_log_error,)


class Held:
    """A request; Celery keeps weak references to the reserved ones."""

    def __init__(self, task: Any, number: int) -> None:
        self.task, self.number, self.id = task, number, str(number)


class Timer:
    """Notes scheduled calls, and their delays in seconds."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Any, Any]] = []

    def call_after(self, seconds: float, work: Any, args: Any, **_: Any) -> None:
        self.later.append((seconds, work, args))


@pytest.mark.parametrize("arrival", ["before", "by its eta"])
@pytest.mark.parametrize(("limit", "begun"), [(None, [1, 2, 3]), ("1/m", [1, 2])])
def test_jobs_that_wait_for_a_rate_limit_follow_a_change_of_it(
    arrival: str, limit: str | None, begun: list[int]
) -> None:
    receiver, timer, started = consumer(Broker(), None), Timer(), list[int]()
    task = SimpleNamespace(name="tasks.ai.complete", rate_limit="1/h")
    receiver.app.tasks = {task.name: task}
    receiver.timer, receiver.task_buckets, receiver._limit_order = (
        timer,
        defaultdict(lambda: None),
        0,
    )
    receiver.on_task_request = lambda request: started.append(request.number)
    given_back = list[bool]()
    receiver.qos = SimpleNamespace(decrement_eventually=lambda: given_back.append(True))
    receiver.reset_rate_limits()
    bucket = receiver.task_buckets[task.name]
    jobs = [Held(task, number) for number in (1, 2, 3)]
    receiver._limit_task(jobs[0], bucket, 1)
    if arrival == "before":
        for job in jobs[1:]:
            receiver._limit_task(job, bucket, 1)
        assert started == [1]
    task.rate_limit = limit
    receiver.reset_rate_limits()
    if arrival == "by its eta":
        for job in jobs[1:]:
            receiver._limit_post_eta(job, bucket, 1)
    assert started == begun
    # The worker takes one more message for each message that it held until its eta.
    assert len(given_back) == (2 if arrival == "by its eta" else 0)
    for _, work, args in timer.later:
        if args == (bucket,):
            work(*args)  # the timer of the former limit
    assert started == begun, "no job begins twice"
