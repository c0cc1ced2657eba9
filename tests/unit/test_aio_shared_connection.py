"""The connection that jobs share: its writes, which command a reply belongs to, and its end.

There is no server: the tests bring the loop's clock and the socket.
"""

import asyncio
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call
from weakref import ref

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as LateError

from worker.aio.shared_connection import Link, SharedConnection


class _Loop:
    """The clock and timers of an event loop."""

    def __init__(self) -> None:
        self.now_s, self.soon = 1000.0, list[Callable[[], None]]()
        self.timers: list[SimpleNamespace] = []
        self.time = lambda: self.now_s
        self.create_future = asyncio.get_running_loop().create_future
        self.call_soon = self.soon.append

    def call_later(self, after_s: float, function: Callable[[], None]) -> SimpleNamespace:
        timer = SimpleNamespace(after_s=after_s, function=function, cancel=Mock())
        self.timers.append(timer)
        return timer

    def turn(self) -> None:
        for function in self.soon:
            function()
        self.soon.clear()


class _Wire:
    """A connection opened by redis-py."""

    def __init__(self, *, decodes: bool = True, ended: bool = False) -> None:
        self.transport = Mock()
        self.transport.is_closing.return_value = False
        self.streams = self.transport.get_protocol.return_value
        self._writer = SimpleNamespace(transport=self.transport)
        self._reader = SimpleNamespace(at_eof=lambda: ended)
        self.encoder = SimpleNamespace(decode_responses=decodes)
        self.should_reconnect = Mock(return_value=False)

    @property
    def written(self) -> list[bytes]:
        return [each.args[0] for each in self.transport.write.call_args_list]


@pytest.fixture
async def loop(monkeypatch: pytest.MonkeyPatch) -> _Loop:
    loop_in_use = _Loop()
    monkeypatch.setattr(
        "worker.aio.shared_connection.asyncio.get_running_loop", lambda: loop_in_use
    )
    return loop_in_use


def linked(wire: Any, timeout_s: float = 10.0) -> Link:
    return Link(wire, timeout_s)


async def test_the_commands_of_one_turn_leave_in_one_write(loop: _Loop) -> None:
    wire = _Wire()
    link = linked(wire)
    wire.transport.set_protocol.assert_called_once_with(link)
    for turn in (b"ab", b"c"):
        for command in turn:
            link.send(bytes([command]))
        assert len(loop.soon) == 1
        loop.turn()
    assert wire.written == [b"ab", b"c"]
    link.send(b"d")
    wire.transport.is_closing.return_value = True
    loop.turn()
    assert wire.written == [b"ab", b"c"]


@pytest.mark.parametrize("decodes", [True, False])
async def test_each_answer_is_for_its_command_however_it_arrives(
    loop: _Loop, *, decodes: bool
) -> None:
    link = linked(_Wire(decodes=decodes))
    first, cancelled, failed, last = (link.send(b"") for _ in range(4))
    cancelled.cancel()
    link.data_received(b">2\r\n+invalidate\r\n*0\r\n+o")  # a push message and half a reply
    assert not first.done()
    link.data_received(b"k\r\n:1\r\n-ERR no\r\n$2\r\n\xc3")
    link.data_received(b"\xa4\r\n")
    assert await first == ("ok" if decodes else b"ok")
    assert cancelled.cancelled()
    with pytest.raises(ResponseError, match=r"^no$"):
        await failed
    assert await last == ("ä" if decodes else "ä".encode())
    assert link.is_usable()


async def test_an_answer_that_is_not_utf_8_does_no_harm_to_the_answers_behind_it(
    loop: _Loop,
) -> None:
    link = linked(_Wire())
    broken, behind = link.send(b""), link.send(b"")
    link.data_received(b"+\xff\r\n+ok\r\n")
    assert [await broken, await behind] == ["\N{REPLACEMENT CHARACTER}", "ok"]


async def test_a_command_has_its_whole_time_however_old_those_before_it_were(loop: _Loop) -> None:
    wire = _Wire()
    link = linked(wire)
    first = link.send(b"")
    [timer] = loop.timers
    assert timer.after_s == 10
    loop.now_s += 4
    second = link.send(b"")
    link.data_received(b"+ok\r\n")
    assert await first == "ok"
    loop.now_s += 6
    timer.function()
    assert [each.after_s for each in loop.timers] == [10, 4]  # one timer for all waiting commands
    loop.now_s += 4
    wire.transport.abort.assert_not_called()
    assert link.is_usable()
    loop.timers[1].function()
    wire.transport.abort.assert_called_once_with()
    assert not link.is_usable()
    link.connection_lost(None)
    with pytest.raises(LateError, match=r"^Redis has not answered for 10 s$"):
        await second
    assert len(loop.timers) == 2


async def test_once_no_command_waits_the_next_one_starts_the_time_again(
    loop: _Loop,
) -> None:
    wire = _Wire()
    link = linked(wire)
    for number in range(2):
        link.send(b"")
        link.data_received(b"+ok\r\n")
        loop.now_s += 10
        loop.timers[number].function()
    assert [each.after_s for each in loop.timers] == [10, 10]
    wire.transport.abort.assert_not_called()


async def test_a_lost_connection_fails_waiting_commands_and_all_later_ones(loop: _Loop) -> None:
    wire = _Wire()
    link = linked(wire)
    cancelled, waiting = link.send(b""), link.send(b"")
    cancelled.cancel()
    why = OSError("reset")
    link.connection_lost(why)
    loop.turn()
    loop.timers[0].cancel.assert_called_once_with()
    wire.streams.connection_lost.assert_called_once_with(why)
    for future in (waiting, link.send(b"")):
        with pytest.raises(LostError, match=r"^the connection to Redis was lost before the answer"):
            await future
    assert (len(loop.timers), loop.soon) == (1, [])
    assert not link.is_usable()
    link = linked(wire)
    link.connection_lost(None)  # before its first command
    assert not link.is_usable()


# An event, and whether one more command may be sent.
@pytest.mark.parametrize(
    ("about", "waits", "idle_s", "is_usable"),
    [
        ("nothing", False, 0, True),
        ("nothing", False, 29.9, True),
        ("nothing", False, 30, False),  # a firewall may have dropped the connection
        ("nothing", True, 30, True),  # the timeout of the waiting command notices it
        ("it is to be opened anew", False, 0, False),  # redis-py demands it
        ("it is to be opened anew", True, 0, True),
        ("it closes", True, 0, False),
        ("it was left", True, 0, False),
        ("a replica", True, 0, False),
        ("a replica, in a script", True, 0, False),
        ("an error", True, 0, True),
    ],
)
async def test_a_link_is_used_for_as_long_as_an_answer_may_come(
    loop: _Loop, about: str, *, waits: bool, idle_s: float, is_usable: bool
) -> None:
    answers = {
        "a replica": b"-READONLY You can't write against a read only replica.\r\n",
        "a replica, in a script": b"-ERR Error running script (call to f_0): @x:1: -READONLY \r\n",
        "an error": b"-WRONGTYPE no list\r\n",
    }
    wire = _Wire()
    link = linked(wire)
    link.send(b"")
    loop.now_s += 100
    link.data_received(answers.get(about, b"+ok\r\n"))
    wire.should_reconnect.return_value = about == "it is to be opened anew"
    wire.transport.is_closing.return_value = about == "it closes"
    if about == "it was left":
        link.leave()
    if waits:
        link.send(b"")
    loop.now_s += idle_s
    assert link.is_usable() is is_usable


async def test_a_new_link_counts_as_answered(loop: _Loop) -> None:
    link = linked(_Wire())
    loop.now_s += 29
    assert link.is_usable()


async def test_a_link_whose_connection_was_closed_at_once_is_not_used(loop: _Loop) -> None:
    wire = _Wire(ended=True)
    assert not linked(wire).is_usable()
    wire.transport.abort.assert_called_once_with()


class _Pool:
    def __init__(self, **settings: Any) -> None:
        self.connection_kwargs = settings
        self.wire = _Wire()
        self.wire.disconnect = AsyncMock()  # type: ignore[attr-defined]
        self.get_connection = AsyncMock(return_value=self.wire)
        self.ensure_connection, self.release = AsyncMock(), AsyncMock()


def shared(pool: Any) -> SharedConnection:
    return SharedConnection(SimpleNamespace(connection_pool=pool))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "timeout_s"),
    [({}, 10), ({"socket_timeout": None}, 10), ({"socket_timeout": 3}, 3)],
)
async def test_an_answer_may_take_as_long_as_the_clients_connections_allow(
    settings: dict[str, Any], timeout_s: float
) -> None:
    link = await shared(_Pool(**settings)).link()
    link.send(b"")
    assert link._timer is not None
    left_s = link._timer.when() - asyncio.get_running_loop().time()
    assert round(left_s) == timeout_s
    link.connection_lost(None)


async def test_all_callers_while_it_opens_share_one_connection_or_its_failure() -> None:
    pool = _Pool()
    connection = shared(pool)
    first, *later = [asyncio.create_task(connection.link()) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()  # the other commands still get their replies
    links = await asyncio.gather(*later)
    assert links[0] is links[1] is await connection.link()
    pool.get_connection.assert_awaited_once_with()
    links[0].leave()
    pool.ensure_connection.side_effect = LostError("away")
    fails = [asyncio.create_task(connection.link()) for _ in range(2)]
    for failed in fails:
        with pytest.raises(LostError, match="away"):
            await failed
    assert pool.ensure_connection.await_count == 1
    pool.wire.disconnect.assert_awaited_once_with(nowait=True)  # type: ignore[attr-defined]
    assert pool.release.await_args_list == [call(pool.wire)]
    assert await connection.link() is not links[0]
    assert pool.get_connection.await_count == 2  # because the earlier one was returned


@pytest.mark.parametrize("ends", ["fails", "is cancelled"])
async def test_an_opening_for_which_nobody_waits_any_more_reports_nothing_to_the_loop(
    ends: str,
) -> None:
    heard: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, of: heard.append(of["message"]))
    pool, gate = _Pool(), asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise LostError("away")

    pool.get_connection.side_effect = fail
    connection = shared(pool)
    caller = asyncio.create_task(connection.link())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert connection._opening is not None
    opening = ref(connection._opening)
    if ends == "is cancelled":
        connection._opening.cancel()
    gate.set()
    for _ in range(9):  # turns of the loop
        await asyncio.sleep(0)
    gc.collect()
    assert opening() is None
    assert heard == []


async def test_a_lost_connection_is_opened_again_and_not_given_back() -> None:
    pool = _Pool()
    connection = shared(pool)
    first = await connection.link()
    first.leave()
    second = await connection.link()
    assert second is not first
    assert pool.ensure_connection.await_args_list == [call(pool.wire)]
    assert pool.get_connection.await_count == 1
    pool.release.assert_not_awaited()
