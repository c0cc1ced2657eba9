"""How a worker that ends waits for its jobs, and what it does meanwhile; without a real clock."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from celery import Celery
from celery.worker import state
from kombu.asynchronous import Hub
from kombu.message import Message

from worker.aio import hung_redis, lifespan, shutdown
from worker.aio.shutdown import (
    end_lifespan,
    send_acknowledgements,
    wait_for_jobs,
    wait_softly,
)
from worker.aio.transport import unacked


class Pool:
    """Jobs that end and report their end at given seconds of a clock that only waits move."""

    def __init__(self, *, ends_s: float, settles_s: float) -> None:
        self.now_s, self.ends_s, self.settles_s = 1000.0, 1000.0 + ends_s, 1000.0 + settles_s
        self.waits_s: list[float] = []
        self.cancels_at_s: list[float] = []
        self.calls = Mock()
        self.calls.wait.side_effect = self._wait
        self.drain = Mock()
        self.options: dict[str, Any] = {}

    def _wait(self, longest_s: float) -> None:
        self.waits_s.append(longest_s)
        self.now_s = round(self.now_s + longest_s, 3)

    @property
    def running(self) -> int:
        return 2 * (self.now_s < self.ends_s)

    @property
    def unsettled(self) -> int:
        return int(self.now_s < self.settles_s)

    def cancel_all(self) -> None:
        self.cancels_at_s.append(self.now_s - 1000.0)


@pytest.fixture(autouse=True)
def redis_answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the process see a Redis that does not hang."""
    known = SimpleNamespace(begin=Mock(), silent=False)
    monkeypatch.setattr(hung_redis, "of_process", known)
    return known


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The hubs whose acknowledgements were sent."""
    hubs: list[Any] = []
    monkeypatch.setattr(shutdown, "send_acknowledgements", lambda hub, **_: hubs.append(hub))
    monkeypatch.setattr(state, "should_terminate", None)
    return hubs


def pool_of(monkeypatch: pytest.MonkeyPatch, ends_s: float, settles_s: float) -> Any:
    pool = Pool(ends_s=ends_s, settles_s=settles_s)
    monkeypatch.setattr(shutdown, "time", SimpleNamespace(monotonic=lambda: pool.now_s))
    return pool


# When the jobs end and report their end, whether the shutdown is cold; the length of the wait, when
# the jobs are cancelled, and the log lines.
@pytest.mark.parametrize(
    ("ends_s", "settles_s", "cold", "waited_s", "cancels_at_s", "words"),
    [
        (0, 0, False, 0, [], None),
        (600, 600, False, 600, [], None),
        (600, 10, False, 13.5, [], "2 jobs that timed out or were terminated still run"),
        (12, 10, False, 12, [], None),
        (0, 0, True, 0, [], None),
        (1, 600, True, 1, [0], None),
        (600, 600, True, 5.1, [0], "2 jobs did not end when they were cancelled"),
        (600, 0, True, 5.1, [0], "2 jobs did not end when they were cancelled"),
    ],
)
def test_a_worker_waits_for_its_jobs_as_long_as_it_may(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sent: list[Any],
    *,
    ends_s: float,
    settles_s: float,
    cold: bool,
    waited_s: float,
    cancels_at_s: list[float],
    words: str | None,
) -> None:
    pool, hub = pool_of(monkeypatch, ends_s, settles_s), Mock()
    wait_for_jobs(pool, hub, cold=cold, cold_patience_s=5.0)
    assert round(pool.now_s - 1000, 1) == waited_s
    assert pool.cancels_at_s == cancels_at_s
    assert set(pool.waits_s) <= ({0.1} if cold else {0.5})
    assert caplog.messages == ([f"{words}; the worker ends without them"] if words else [])
    assert pool.calls.drain.call_count == 1
    assert sent == [hub] * (len(pool.waits_s) + 1)
    if not cold:
        assert hub.fire_timers.call_count == len(pool.waits_s)
    elif waited_s == 1:
        assert hub.fire_timers.call_count == 2, "the timers fire every half a second"


def test_a_signal_that_comes_meanwhile_makes_the_shutdown_a_cold_one(
    monkeypatch: pytest.MonkeyPatch, sent: list[Any]
) -> None:
    pool = pool_of(monkeypatch, 600, 600)

    def wait(longest_s: float) -> None:
        pool._wait(longest_s)
        monkeypatch.setattr(state, "should_terminate", 15 if pool.now_s >= 1002 else False)

    pool.calls.wait.side_effect = wait
    wait_for_jobs(pool, None, cold=False, cold_patience_s=3.0)
    assert pool.cancels_at_s == [2.0]
    assert round(pool.now_s - 1000, 1) == 5.1
    assert set(sent) == {None}


def test_a_timer_that_fails_does_not_keep_the_worker_from_ending(
    monkeypatch: pytest.MonkeyPatch, sent: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    hub = Mock(**{"fire_timers.side_effect": ZeroDivisionError})
    wait_for_jobs(pool_of(monkeypatch, 0.5, 0.5), hub, cold=False, cold_patience_s=3.0)
    assert len(sent) == 2
    assert caplog.messages == ["a timer failed; the shutdown goes on"]


# The soft timeout, whether a worker without a job waits as well, whether Celery knows of jobs, and
# when they end; the length of the wait.
@pytest.mark.parametrize(
    ("timeout_s", "idle_too", "active", "ends_s", "waited_s"),
    [
        (0, True, True, 600, 0),
        (3, False, False, 600, 0),
        (3, False, True, 600, 3),
        (3, False, True, 1, 1),
        (3, True, False, 0, 3),
        (3, True, True, 1, 3),
    ],
)
def test_a_soft_shutdown_waits_only_while_there_is_a_job(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    timeout_s: float,
    idle_too: bool,
    active: bool,
    ends_s: float,
    waited_s: float,
) -> None:
    pool = pool_of(monkeypatch, ends_s, ends_s)
    monkeypatch.setattr(state, "active_requests", {object()} if active else set())
    conf = SimpleNamespace(
        worker_soft_shutdown_timeout=timeout_s, worker_enable_soft_shutdown_on_idle=idle_too
    )
    wait_softly(pool, SimpleNamespace(app=SimpleNamespace(conf=conf)))
    assert abs(pool.now_s - 1000 - waited_s) < 0.11
    assert set(pool.waits_s) <= {0.1}
    pool.calls.drain.assert_called_once_with()
    pool.drain.assert_called_once_with()
    words = f"Initiating Soft Shutdown, terminating in {float(timeout_s)} seconds"
    assert caplog.messages == ([words] if waited_s else [])


def test_only_acknowledgements_run_in_a_hub_that_has_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flushed = Mock()
    monkeypatch.setattr(unacked.of_process, "flush_acks", flushed)
    message = Message.__new__(Message)
    ran: list[str] = []

    class Later:
        """A promise, as Celery makes it."""

        def __init__(self, function: Any, name: str) -> None:
            self.fun, self.name = function, name

        def __call__(self) -> None:
            ran.append(self.name)
            if self.name == "fails":
                raise OSError("gone")

    class Other:
        def ack_log_error(self) -> None: ...

    acknowledging = [
        Later(message.ack_log_error, "fails"),
        Later(message.reject_log_error, "rejects"),
    ]
    not_acknowledging = [
        Later(message.ack, "of kombu"),
        Later(Other().ack_log_error, "of a stranger"),
        print,
    ]
    hub = Mock()
    hub._pop_ready.return_value = [
        acknowledging[0],
        not_acknowledging[0],
        *not_acknowledging[1:],
        acknowledging[1],
    ]
    send_acknowledgements(hub)
    assert ran == ["fails", "rejects"]
    assert hub.call_soon.call_args_list == [call(each) for each in not_acknowledging]
    assert caplog.messages == ["cannot acknowledge a message; the broker delivers it again"]
    flushed.assert_called_once_with()
    send_acknowledgements(None)
    flushed.assert_called_once_with()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, None),
        (TimeoutError(), "the cleanups did not end in 7 s; the worker ends without them"),
        (ValueError(), "the cleanups failed; the worker ends anyway"),
    ],
)
def test_a_worker_ends_whatever_its_cleanups_do(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    words: str | None,
) -> None:
    loop, submitted_to = object(), list[Any]()
    result = Mock(side_effect=error)

    def submit(coroutine: Any, on: Any) -> Any:
        coroutine.close()
        submitted_to.append(on)
        return SimpleNamespace(result=result)

    ended = Mock(side_effect=lambda **_: asyncio.sleep(0))
    monkeypatch.setattr(lifespan, "end", ended)
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", submit)
    end_lifespan(loop, patience_s=7.0)  # type: ignore[arg-type]
    assert submitted_to == [loop]
    assert (ended.call_args, result.call_args) == (call(patience_s=7.0), call(7.0))
    assert caplog.messages == [words] * (words is not None)


# Whether Redis hangs, the jobs' hard limit, whether the shutdown is cold; the length of the wait,
# and the log lines.
@pytest.mark.parametrize(
    ("timeout_s", "cold", "waited_s", "words"),
    [
        (20, False, 20.5, "2 jobs cannot report their ends, because Redis does not answer"),
        (None, False, 300.5, "2 jobs cannot report their ends, because Redis does not answer"),
        (20, True, 5.1, "2 jobs did not end when they were cancelled"),
    ],
)
def test_while_redis_hangs_a_worker_waits_as_long_as_its_jobs_may_run(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sent: list[Any],
    redis_answers: Any,
    *,
    timeout_s: float | None,
    cold: bool,
    waited_s: float,
    words: str,
) -> None:
    redis_answers.silent = True
    pool = pool_of(monkeypatch, 600, 600)
    pool.options = {"timeout": timeout_s}
    wait_for_jobs(pool, None, cold=cold, cold_patience_s=5.0)
    redis_answers.begin.assert_called_once_with()
    assert round(pool.now_s - 1000, 1) == waited_s
    assert pool.cancels_at_s == ([0] if cold else [waited_s])
    assert caplog.messages == [f"{words}; the worker ends without them"]
    assert sent


def test_while_redis_hangs_acknowledgements_are_flushed_once_at_the_end(
    monkeypatch: pytest.MonkeyPatch, redis_answers: Any
) -> None:
    flushed, hub = Mock(), Mock(**{"_pop_ready.return_value": []})
    monkeypatch.setattr(unacked.of_process, "flush_acks", flushed)
    for silent, is_again, times in ((False, True, 1), (True, True, 0), (True, False, 1)):
        flushed.reset_mock()
        redis_answers.silent = silent
        send_acknowledgements(hub, is_again=is_again)
        assert flushed.call_count == times


@pytest.mark.parametrize(("silent", "patience_s", "given_s"), [(True, 9, 2), (True, 1, 1)])
def test_cleanups_have_little_time_while_redis_hangs(
    monkeypatch: pytest.MonkeyPatch, redis_answers: Any, patience_s: float, given_s: float, *,
    silent: bool,
) -> None:  # fmt: skip
    redis_answers.silent = silent
    ended, result = Mock(), Mock()
    monkeypatch.setattr(lifespan, "end", ended)
    submit = Mock(return_value=SimpleNamespace(result=result))
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", submit)
    end_lifespan(Mock(), patience_s=patience_s)
    assert (ended.call_args, result.call_args) == (call(patience_s=given_s), call(given_s))


def test_a_soft_shutdown_begins_the_watch_for_a_redis_that_hangs(
    monkeypatch: pytest.MonkeyPatch, redis_answers: Any
) -> None:
    conf = SimpleNamespace(
        worker_soft_shutdown_timeout=0, worker_enable_soft_shutdown_on_idle=False
    )
    wait_softly(pool_of(monkeypatch, 0, 0), SimpleNamespace(app=SimpleNamespace(conf=conf)))
    redis_answers.begin.assert_called_once_with(cold=True)


def test_a_signal_handler_sends_events_and_acknowledgements_while_its_thread_holds_their_locks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Celery("interrupted", broker="memory://", set_as_current=False)
    conf = SimpleNamespace(
        worker_soft_shutdown_timeout=0, worker_enable_soft_shutdown_on_idle=False
    )
    ended = threading.Event()

    def interrupted() -> None:
        with app.connection_for_write() as connection, app.events.Dispatcher(connection) as events:
            hub = Hub()
            consumer = SimpleNamespace(event_dispatcher=events, hub=hub)
            worker = SimpleNamespace(app=SimpleNamespace(conf=conf), consumer=consumer)
            with events.mutex, hub._ready_lock:  # the signal comes here
                wait_softly(pool_of(monkeypatch, 0, 0), worker)
                events.send("task-succeeded", uuid="1")
                send_acknowledgements(hub)
            hub.close()
        ended.set()

    threading.Thread(target=interrupted, daemon=True).start()
    assert ended.wait(20)
    app.close()
