"""The content of the queues: messages are counted, and deferred jobs are listed."""

from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import Mock

from amqp.exceptions import NotFound
from redis.exceptions import RedisError

from worker.dashboard import deferred_jobs
from worker.dashboard import queues as dashboard_queues
from worker.dashboard.deferred_jobs import DeferredJob


class _Connection:
    """A RabbitMQ with some messages; it closes a channel that names a missing queue."""

    def __init__(self, driver: str, counts: dict[str, int]) -> None:
        self.transport = SimpleNamespace(driver_type=driver)
        self._counts = counts
        self.channels = 0

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ensure_connection(self, **given: Any) -> None:
        assert given == {
            "max_retries": 1, "interval_start": 0, "reraise_as_library_errors": False
        }  # fmt: skip

    def channel(self) -> Any:
        self.channels += 1
        opened: Any = Mock()
        opened.__enter__ = lambda _: opened
        opened.__exit__ = lambda *_: None
        opened.queue_declare = self._declare
        return opened

    def _declare(self, queue: str, *, passive: bool) -> Any:
        assert passive
        if queue not in self._counts:
            raise NotFound("no queue")
        return SimpleNamespace(message_count=self._counts[queue])


def worker(**backpressure: Any) -> dict[str, Any]:
    skew = {"clock_skew_s": backpressure.pop("skew")} if "skew" in backpressure else {}
    return {"backpressure": backpressure, **skew}


def test_the_queues_of_rabbitmq_are_counted_with_what_the_workers_hold() -> None:
    connection = _Connection("amqp", {"ai": 3, "ai.deferred": 4, "email": 5})
    app: Any = Mock()
    app.connection_for_read = lambda: connection
    app.control.broadcast.return_value = [
        {"w1": worker(paused=["ai"], waiting={"ai": 2}, held={"ai": 1, "email": 1}, skew=-0.5)},
        {"w2": worker(paused=["ai"], skew=0.2)},
        {"w3": worker()},
        {"flower": {"pool": {}}},
    ]
    watch = dashboard_queues.QueueWatch(app, ("ai", "email", "admin"))
    views = watch.poll()
    assert {
        name: (view.ready, view.deferred, view.held, view.paused_workers)
        for name, view in views.items()
    } == {"ai": (3, 4, 3, 2), "email": (5, 0, 1, 0), "admin": (0, 0, 0, 0)}
    assert {(view.workers, view.clock_skew_s) for view in views.values()} == {(3, 0.5)}
    broadcast = app.control.broadcast.call_args
    assert broadcast.args == ("stats",)
    assert (broadcast.kwargs["reply"], broadcast.kwargs["connection"]) == (True, connection)
    watch.poll()
    assert app.control.broadcast.call_count == 1, "the workers get fewer queries"


def test_queues_without_workers_are_counted_anyway() -> None:
    app: Any = Mock()
    app.connection_for_read = lambda: _Connection("amqp", {"ai": 1})
    app.control.broadcast.return_value = None
    [view] = dashboard_queues.QueueWatch(app, ("ai",)).poll().values()
    assert (view.ready, view.workers, view.clock_skew_s, view.held) == (1, 0, 0.0, 0)


class _Pipe:
    """Returns the time and the length of each list; notes the ranges that were read."""

    def __init__(self, now: tuple[int, int], *ranges: list[tuple[bytes, int]]) -> None:
        self.answers = [now, *ranges]
        self.ranges: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def time(self) -> None: ...

    def zrange(self, _: str, first: int, last: int, *, withscores: bool) -> None:
        assert withscores
        self.ranges.append((first, last))

    def execute(self) -> list[Any]:
        return self.answers


def test_the_jobs_that_come_back_first_and_last_are_listed_in_milliseconds() -> None:
    first = [(f"a{n:02}".encode(), 2_000_000 + n * 1_600) for n in range(10)]
    last = [(f"z{n}".encode(), 9_000_000 + n) for n in range(5)]
    other = [(b"b", 5_000_400), (b"past", 7)]
    pipe = _Pipe((1, 999_999), first, last, other, other)
    client = SimpleNamespace(pipeline=lambda **_: pipe)
    app: Any = SimpleNamespace(backend=object())
    listed = deferred_jobs.deferred_jobs(app, client, ["x", "y"])
    assert pipe.ranges == [(0, 9), (-5, -1)] * 2
    assert [(job.id, job.next_try_ms) for job in listed[:3]] == [
        ("past", 2_000), ("a00", 2_000), ("a01", 2_002)
    ]  # fmt: skip
    assert [job.id for job in listed] == [
        "past", *(f"a{n:02}" for n in range(9)), *(f"z{n}" for n in range(5))
    ]  # fmt: skip
    assert (
        deferred_jobs.deferred_jobs(
            app, SimpleNamespace(pipeline=lambda **_: _Pipe((1, 0), [])), ["x"]
        )
        == ()
    )


def test_few_jobs_are_listed_once_each() -> None:
    few = [(f"a{n}".encode(), 2_000_000 + n) for n in range(7)]
    client = SimpleNamespace(pipeline=lambda **_: _Pipe((1, 0), few, few[-5:]))
    app: Any = SimpleNamespace(backend=object())
    listed = deferred_jobs.deferred_jobs(app, client, ["x"])
    assert [job.id for job in listed] == [f"a{n}" for n in range(7)]


def test_the_jobs_are_listed_without_reasons_if_the_results_do_not_say() -> None:
    jobs = [DeferredJob("a", 1)]
    backend: Any = SimpleNamespace(
        mget=Mock(side_effect=RedisError("gone")), get_key_for_task=lambda job: f"key-{job}"
    )
    with_reasons = deferred_jobs._with_reasons
    assert with_reasons(SimpleNamespace(backend=backend), jobs) == tuple(jobs)  # type: ignore[arg-type]
    backend.mget.assert_called_once_with(["key-a"])
    assert with_reasons(SimpleNamespace(backend=object()), jobs) == tuple(jobs)  # type: ignore[arg-type]
    assert with_reasons(SimpleNamespace(backend=backend), []) == ()  # type: ignore[arg-type]
    assert backend.mget.call_count == 1
