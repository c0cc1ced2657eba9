"""A channel that takes messages, without a server and with its own clock."""

from collections import deque
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from worker.aio.transport import Channel, replies, requesting, taking
from worker.aio.transport.replies import Replies
from worker.aio.transport.take_limits import TakeLimits

KEYS = ["p.unacked", "p.index", "p.leases", "p.bad"]
LISTS = ["p.a", "p.b", "p.a|3", "p.b|3"]
STEPS = (0, 3)


class TakingBench:
    """A channel whose taking connection gives planned replies, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        for module in (taking, requesting):
            clock = SimpleNamespace(monotonic=lambda: self.now_s, time=lambda: 1.5)
            monkeypatch.setattr(module, "time", clock)
        self.replies: deque[Any] = deque()
        self.wire = Mock(_sock=object())
        self.wire.read_response.side_effect = self._read
        self.hints = Mock(look_at_s=inf, left_out=set(), requested=None, all_empty=False)
        self.hints.worth_asking.side_effect = lambda every, _: list(every)
        self.hints.choose.side_effect = lambda queues, **_: (queues, STEPS)
        self.channel: Any = Channel.__new__(Channel)
        self.channel._queue_cycle = SimpleNamespace(consume=lambda _: ["a", "b"])
        fields: dict[str, Any] = {
            "_in_poll": None, "_reading": False, "_is_script_lost": False, "_is_looking": False,
            "_looks_until_s": 0.0, "_requests": 9, "_suffix": "@x.", "_is_tracking": False,
            "_due_at_s": 0.0, "sweep_s": 10.0, "takes": True, "brpop_timeout": 1,
            "_active_queues": ["a", "b"],
            "active_fanout_queues": set(), "priority_steps": STEPS, "sep": "|",
            "global_keyprefix": "p.", "unacked_key": "unacked", "unacked_index_key": "index",
            "delayed_queues": (), "limits": TakeLimits(), "hints": self.hints,
            "backoff": Mock(until_s=0.0), "sharing": Mock(due_s=7.0), "connection": Mock(),
            "replies": Mock(**{"take.return_value": None}),
            "_qos": Mock(
                prefetch_count=0, leases_key="leases", unreadable_key="bad", keeper=None,
                are_acks_refused=False,
            ),
        }  # fmt: skip
        for name, value in fields.items():
            setattr(self.channel, name, value)
        self.channel.__dict__["client"] = SimpleNamespace(connection=self.wire)
        self.channel.connection.cycle.is_nudged = False
        self.channel._qos.room.return_value = 20
        for name in ("_connect", "_deliver", "_flush_brpop_reauth"):
            monkeypatch.setattr(self.channel, name, Mock(), raising=False)
        monkeypatch.setattr(self.channel, "keep_leases", Mock(return_value=None))
        monkeypatch.setattr(taking, "has_buffered", lambda _: bool(self.replies))

    def _read(self, **how: Any) -> Any:
        assert how == {"disable_decoding": True, "push_request": True}
        reply = self.replies.popleft()
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def sent(self) -> list[Any]:
        calls = [each.args for each in self.wire.send_command.call_args_list]
        self.wire.send_command.reset_mock()
        return calls


def answering(monkeypatch: pytest.MonkeyPatch) -> TakingBench:
    """A channel whose replies come beside its requests; planned replies arrive at once."""
    bench = TakingBench(monkeypatch)
    bench.channel.replies = Replies()
    clock = SimpleNamespace(monotonic=lambda: bench.now_s)
    monkeypatch.setattr(replies, "time", clock)
    monkeypatch.setattr(requesting, "has_buffered", lambda _: bool(bench.replies))
    for module in (requesting, taking):
        monkeypatch.setattr(module, "arrives_soon", lambda _: bool(bench.replies))
    return bench
