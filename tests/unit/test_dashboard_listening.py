"""Where Flower listens, how it starts and stops, and what it counts of the queues."""

from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import AsyncMock, Mock, call

import flower.app
import pytest
from amqp.exceptions import NotFound
from redis.exceptions import RedisError

from worker.dashboard import application, deferred_jobs, stock_changes
from worker.dashboard import queues as dashboard_queues
from worker.dashboard.application import KeysFlower
from worker.dashboard.deferred_jobs import DeferredJob
from worker.dashboard.errors import ApiError, RedisUnreachable

WARNED = "Flower listens on 127.0.0.1 only, not on {}: no login is configured (FLOWER_BASIC_AUTH)"


# The address that was given, whether people can log in, by a socket, and where it listens.
@pytest.mark.parametrize(
    ("given", "login", "socket", "listens", "warned"),
    [
        ("0.0.0.0", True, "", "0.0.0.0", None),  # noqa: S104 - the case at issue
        ("0.0.0.0", False, "", "127.0.0.1", "0.0.0.0"),  # noqa: S104
        ("", False, "", "127.0.0.1", "every address"),
        ("", False, "/run/flower", "", None),
        ("localhost", False, "", "localhost", None),
        ("::1", False, "", "::1", None),
        ("127.0.0.9", False, "", "127.0.0.9", None),
        ("10.0.0.1", False, "", "127.0.0.1", "10.0.0.1"),
    ],
)
def test_flower_without_a_login_listens_on_the_loopback_address_only(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    given: str,
    login: bool,
    socket: str,
    listens: str,
    warned: str | None,
) -> None:
    monkeypatch.setattr(flower.app.Flower, "start_http_server", lambda _: "the server")
    keys_flower = KeysFlower.__new__(KeysFlower)
    keys_flower.options = SimpleNamespace(address=given, unix_socket=socket)
    keys_flower.auth_config = SimpleNamespace(allows_people=login)
    assert keys_flower.start_http_server() == "the server"
    assert keys_flower.options.address == listens
    assert caplog.messages == ([WARNED.format(warned)] if warned else [])


def test_flower_polls_before_it_serves_and_stops_polling_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    keys_flower = KeysFlower.__new__(KeysFlower)
    keys_flower.poller = SimpleNamespace(
        start=lambda: order.append("poll"), stop=lambda: order.append("poll no more")
    )
    monkeypatch.setattr(flower.app.Flower, "start", lambda _: order.append("serve"))
    monkeypatch.setattr(flower.app.Flower, "stop", lambda _: order.append("serve no more"))
    keys_flower.start()
    keys_flower.stop()
    assert order == ["poll", "serve", "serve no more", "poll no more"]


@pytest.mark.parametrize("change", [None, "a change"])
def test_each_request_is_logged_and_a_change_is_written_down_once_it_is_answered(
    monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    logged, added = Mock(), Mock()
    monkeypatch.setattr(flower.app.Flower, "log_request", lambda _, handler: logged(handler))
    monkeypatch.setattr(stock_changes, "change_in", lambda _: change)
    monkeypatch.setattr(application.IOLoop, "current", lambda: SimpleNamespace(add_callback=added))
    keys_flower = KeysFlower.__new__(KeysFlower)
    keys_flower.poller = "the poller"  # type: ignore[assignment]
    keys_flower.log_request("the handler")  # type: ignore[arg-type]
    logged.assert_called_once_with("the handler")
    expected = [call(stock_changes.write_down, "the poller", change)] if change else []
    assert added.call_args_list == expected


def test_no_other_site_may_show_a_page_within_its_own() -> None:
    transform = application._Unframed.__new__(application._Unframed)
    headers: Any = {"Vary": "x"}
    answer = transform.transform_first_chunk(200, headers, b"page", True)
    assert answer == (200, {"Vary": "x", "X-Frame-Options": "DENY"}, b"page")


def test_credentials_are_compared_as_bytes() -> None:
    compare = application._Bytes.compare_digest
    assert compare("zoë:pässword", "zoë:pässword")
    assert not compare("zoë:pässword", "zoë:password")


# --- what is in the queues


class _Connection:
    """A RabbitMQ with some messages; of a queue that it lacks a channel ends with an error."""

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
    assert app.control.broadcast.call_count == 1, "the workers are asked less often"


def test_queues_without_workers_are_counted_all_the_same() -> None:
    app: Any = Mock()
    app.connection_for_read = lambda: _Connection("amqp", {"ai": 1})
    app.control.broadcast.return_value = None
    [view] = dashboard_queues.QueueWatch(app, ("ai",)).poll().values()
    assert (view.ready, view.workers, view.clock_skew_s, view.held) == (1, 0, 0.0, 0)


# --- what waits for its instant


class _Pipe:
    """Answers the time and what waits in each list; notes which ranges were read."""

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


def test_the_jobs_are_listed_without_reasons_where_the_results_do_not_say() -> None:
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


# --- what the audit trail keeps of a change by Flower's own API

CHANGE = stock_changes.StockChange("revoke", "job", "job-1", "terminate=true", "flower ada")


async def test_a_change_is_added_to_the_audit_trail() -> None:
    added: list[Any] = []
    log = SimpleNamespace(add=lambda event, **given: added.append((event, given)))
    poller = SimpleNamespace(with_actions=AsyncMock(side_effect=lambda work: work(log)))
    await stock_changes.write_down(poller, CHANGE)
    about = {"scope": "job", "name": "job-1", "by": "flower ada", "reason": "terminate=true"}
    assert added == [("revoke", about)]


async def test_a_change_that_cannot_be_noted_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gone = RedisUnreachable("Redis does not answer")
    poller = SimpleNamespace(with_actions=AsyncMock(side_effect=gone))
    await stock_changes.write_down(poller, CHANGE)
    assert caplog.messages == [
        f"cannot note revoke in the audit trail ({gone}); it is done all the same"
    ]
    poller.with_actions.side_effect = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await stock_changes.write_down(poller, CHANGE)


def test_a_change_of_a_visitor_who_needs_no_login_is_noted_without_login() -> None:
    def nobody(_: Any) -> Any:
        raise ApiError(401, "login_required", "x")

    handler: Any = SimpleNamespace(request="r", application=SimpleNamespace(visitor=nobody))
    assert stock_changes._visitor(handler) == "without login"
