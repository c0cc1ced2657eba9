"""The stream of statuses: one a poll, until its reader leaves, Redis fails or its time ends."""

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tornado.iostream import StreamClosedError

from worker.dashboard import event_stream
from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.event_stream import EventStream


def stream(monkeypatch: pytest.MonkeyPatch, *after: Any, poll_s: float = 1.0) -> Any:
    """A stream whose reader or poller fails after some states; `sent` has its output."""
    handler: Any = EventStream.__new__(EventStream)
    clock = SimpleNamespace(now_s=100.0)
    states = iter(after)

    async def next_state() -> Any:
        clock.now_s += poll_s
        outcome = next(states)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    poller = SimpleNamespace(fresh_state=AsyncMock(return_value=1), next_state=next_state)
    handler.application = SimpleNamespace(poller=poller)
    handler.status_of = lambda state: {"state": state}
    handler.sent, handler.headers, handler.flush = [], {}, AsyncMock()
    handler.write, handler.set_header = handler.sent.append, handler.headers.__setitem__
    monkeypatch.setattr(event_stream.time, "monotonic", lambda: clock.now_s)
    return handler


def event(state: int) -> str:
    return f"event: status\ndata: {json.dumps({'state': state})}\n\n"


@pytest.mark.parametrize("end", [StreamClosedError(), RedisUnreachable("away")])
async def test_a_stream_ends_with_its_reader_or_redis(
    monkeypatch: pytest.MonkeyPatch, end: Exception
) -> None:
    handler = stream(monkeypatch, 2, 3, end)
    await handler.get()
    assert handler.sent == [event(1), event(2), event(3)]
    assert handler.flush.await_count == 3
    assert handler.headers == {
        "Content-Type": "text/event-stream; charset=UTF-8", "X-Accel-Buffering": "no"
    }  # fmt: skip
    handler = stream(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await handler.get()


async def test_a_stream_lasts_a_quarter_of_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = stream(monkeypatch, 2, 3, 4, poll_s=449.0)
    await handler.get()
    assert handler.sent == [event(1), event(2), event(3)]
