"""The poller's polls: what they read and wake, and which connections they open and close."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from celery import Celery
from redis.asyncio import Redis

from config.errors import SettingsError
from config.settings import Settings
from worker.dashboard import poller
from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.poller import Poller
from worker.dashboard.state import QueueView
from worker.deadletters import Counts


def unstarted_poller(**ended: int) -> Poller:
    app = Celery("test", set_as_current=False)
    return Poller(Settings(), app, ended=lambda: ended)


# --- one poll


@pytest.fixture
async def look(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A poller whose pools, rates and margins note their calls."""
    seen = SimpleNamespace(now_s=100.0, published=[], evicts=SimpleNamespace(policy="lru"))
    seen.poller = looking = unstarted_poller(groq=7)
    looking._redis, looking._actions = "redis", "the actions"  # type: ignore[assignment]
    looking._poll_lock, looking._next = asyncio.Lock(), asyncio.get_running_loop().create_future()
    looking._dead_letters = Mock(counts=AsyncMock(return_value=Counts({("groq", "failed"): 2})))
    looking._drift = Mock(seen=AsyncMock(return_value=["an answer"]))
    looking._pools = {
        name: Mock(snapshot=AsyncMock(return_value=f"view of {name}"), names=f"names of {name}")
        for name in ("groq", "resend")
    }
    looking._rates = {
        name: Mock(rate=rate, idle_s=rate * 2) for name, rate in (("groq", 1.5), ("resend", 2.5))
    }
    looking.margins = Mock(to_publish=Mock(return_value={"groq": "margins"}))

    async def publish(*given: Any) -> None:
        seen.published.append(given)

    async def mark_of(*given: Any, actions: Any) -> str:
        redis, pools, letters, counts = given
        assert (redis, letters, actions) == ("redis", looking._dead_letters, "the actions")
        assert [*pools] == [*looking._pools.values()]
        assert counts.total == 2
        return "a mark"

    monkeypatch.setattr(poller, "publish_margins", publish)
    monkeypatch.setattr(poller, "mark_of", mark_of)
    monkeypatch.setattr(poller, "eviction_of", AsyncMock(side_effect=lambda _: seen.evicts))
    monkeypatch.setattr(poller.time, "monotonic", lambda: seen.now_s)
    return seen


async def test_a_look_shows_pools_queues_letters_and_warnings(look: Any) -> None:
    polling = look.poller
    queue = QueueView("ai", ready=3, deferred=1)
    polling._queues, polling._queues_polled_at = {"ai": queue}, 100.0
    state = await polling._poll(fresh_s=0.4)
    assert polling.state is state
    groq, resend = state.services["groq"], state.services["resend"]
    assert (groq.pool, groq.queue, groq.rate, groq.idle_s) == ("view of groq", queue, 1.5, 3.0)
    assert (resend.pool, resend.queue) == ("view of resend", QueueView("email", known=False))
    assert (state.dead_letters.total, state.evicts, state.unknown, state.changes) == (
        2, "lru", ("an answer",), "a mark"
    )  # fmt: skip
    polling._rates["groq"].add.assert_called_once_with("view of groq", waiting=4, ended=7)
    polling._rates["resend"].add.assert_called_once_with("view of resend", waiting=0, ended=0)
    [of_groq, of_resend] = polling.margins.add.call_args_list
    model = Settings().models["groq"][0]
    assert (of_groq.args, of_groq.kwargs) == (
        ("view of groq", queue), {"model": model, "ended": 7}
    )  # fmt: skip
    assert of_resend.kwargs == {"model": "", "ended": 0}
    assert look.published == [("redis", "names of groq", "margins")]
    look.evicts = None
    assert (await polling._poll(fresh_s=0)).evicts == ""


async def test_one_look_serves_all_that_ask_within_400_ms(look: Any) -> None:
    polling = look.poller
    waiting = polling._next
    first = await polling._poll(fresh_s=0.4)
    assert waiting.result() is first, "a request that waits for the next state gets it"
    look.now_s += 0.3
    assert await polling._poll(fresh_s=0.4) is first
    assert not polling._next.done()
    second = await polling._poll(fresh_s=0)  # because something has been changed
    assert second is not first
    look.now_s += 0.4
    assert await polling._poll(fresh_s=0.4) is not second


async def test_counts_of_queues_are_shown_for_ten_seconds(look: Any) -> None:
    polling = look.poller
    assert polling._queue("ai") == QueueView("ai", known=False)
    queue = QueueView("ai", ready=1)
    polling._queues, polling._queues_polled_at = {"ai": queue}, look.now_s
    look.now_s += 9.9
    assert polling._queue("ai") is queue
    look.now_s += 0.1
    assert polling._queue("ai") == QueueView("ai", known=False)


# --- the thread


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The two connections of a poller, whose loops only wait."""
    connections = SimpleNamespace()
    for name in ("pool", "broker"):
        client = Redis.from_url("redis://127.0.0.1:1", decode_responses=True)  # never connected
        monkeypatch.setattr(client, "aclose", AsyncMock())
        setattr(connections, name, client)

    async def wait(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(poller, "connect", lambda _: connections.pool)
    monkeypatch.setattr(poller, "connect_to_broker", lambda *_: connections.broker)
    monkeypatch.setattr(poller, "pools_for_tools", lambda _: {"groq": "its pool"})
    for name in ("_keep_polling", "_keep_polling_queues"):
        monkeypatch.setattr(Poller, name, wait)
    return connections


async def test_a_poller_has_one_thread_and_passes_each_work_the_connection_that_it_needs(
    redis: Any,
) -> None:
    polling = unstarted_poller()
    polling.start()
    thread = polling._thread
    polling.start()
    assert polling._thread is thread
    assert thread is not None

    async def same(given: Any) -> Any:
        assert threading.current_thread() is thread
        return given

    assert await polling.with_pools(same) == {"groq": "its pool"}
    assert await polling.with_redis(same) is redis.pool
    assert await polling.with_broker(same) is redis.broker
    assert (await polling.with_dead_letters(same)).name("index") == "{kw:dead}:index"
    assert (await polling.with_actions(same)).name == "{kw:people}:audit"

    async def announce(_: Any) -> None:
        polling._announce("a state")  # type: ignore[arg-type]

    waiting = asyncio.create_task(polling.next_state())
    while not waiting.done():
        await polling.with_pools(announce)
    assert await waiting == "a state"

    async def nothing(_: Any) -> None:
        polling._announce(None)

    waiting = asyncio.create_task(polling.next_state())
    while not waiting.done():
        await polling.with_pools(nothing)
    with pytest.raises(RedisUnreachable, match=r"^Redis does not answer$"):
        await waiting
    with pytest.raises(RedisUnreachable, match="TimeoutError"):
        await polling.with_redis(lambda _: asyncio.Event().wait(), timeout_s=0.001)
    polling.stop()
    thread.join(20)
    assert not thread.is_alive()
    redis.pool.aclose.assert_awaited_once_with()
    redis.broker.aclose.assert_awaited_once_with()
    polling.stop()
    with pytest.raises(RedisUnreachable, match="Flower is not ready"):
        await polling.with_redis(same)


def test_a_poller_without_a_broker_of_its_own_stops_as_well(redis: Any) -> None:
    broker, redis.broker = redis.broker, None
    polling = unstarted_poller()
    polling.start()
    thread = polling._thread
    assert thread is not None
    assert asyncio.run(polling.with_broker(AsyncMock())) is None
    polling.stop()
    thread.join(20)
    redis.pool.aclose.assert_awaited_once_with()
    broker.aclose.assert_not_awaited()


@pytest.mark.usefixtures("redis")
def test_a_poller_whose_settings_cannot_be_read_says_so_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(_: Any) -> Any:
        raise SettingsError([".env cannot be read"])

    monkeypatch.setattr(poller, "pools_for_tools", unreadable)
    polling = unstarted_poller()
    polling.start()
    thread = polling._thread
    assert thread is not None
    thread.join(20)
    polling.stop()
    [line] = caplog.messages
    assert line.startswith("Flower shows no keys: ")
    assert ".env cannot be read" in line
    monkeypatch.setattr(poller, "pools_for_tools", Mock(side_effect=ZeroDivisionError))
    ready = threading.Event()
    with pytest.raises(ZeroDivisionError):  # an error in our code keeps its traceback
        polling._run(ready)
    assert ready.is_set()
