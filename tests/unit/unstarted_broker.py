"""A channel's record of deliveries, with doubles of the server, the clock and the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import redis

from worker.aio.transport.qos import TransportQoS

AWAY = redis.ConnectionError("gone")
FULL = redis.ResponseError("OOM command not allowed")
KEYS = ["p.unacked", "p.index", "p.unacked.leases"]
BACK_KEYS = [*KEYS, "p.unacked.unreadable"]


class Broker:
    """The server, the clock and the hub that the record of deliveries of a channel uses."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.execute_command = Mock(return_value=0)
        self.cycle = SimpleNamespace(hub=object(), nudge=Mock(return_value=True))
        self.keeper = Mock(detached=0, lease_s=60.0, patience_s=61.0, workers=0)
        self.closed, self.do_restore = False, True
        self.connection = SimpleNamespace(cycle=self.cycle)
        self.global_keyprefix, self.unacked_key, self.unacked_index_key = "p.", "unacked", "index"
        self.send_beside = Mock(return_value=False)
        self.keep_leases = Mock(return_value=self.keeper)
        self.recover_every_s = 15.0
        self._get_message_priority = lambda payload: payload["properties"]["priority"]
        self._lookup = lambda _, routing_key: [] if routing_key == "unbound" else [routing_key, "b"]
        self._q_for_pri = lambda queue, priority: f"{queue}:{priority}"

    @contextmanager
    def conn_or_acquire(self, _: Any = None) -> Iterator[Any]:
        yield self

    @property
    def sent(self) -> list[Any]:
        """The commands since the last call."""
        calls = [list(each.args) for each in self.execute_command.call_args_list]
        self.execute_command.reset_mock()
        return calls


def message(tag: str, *, headers: Any = None, routing_key: str = "a") -> Any:
    properties = {"delivery_tag": tag, "priority": 0, "delivery_info": {"exchange": "x"}}
    return Mock(
        delivery_tag=tag,
        delivery_info={"exchange": "x", "routing_key": routing_key},
        _raw={"body": "…", "headers": {"id": "job"} if headers is None else headers}
        | {"properties": properties},
    )


def deliver(qos: TransportQoS, *tags: str) -> None:
    for tag in tags:
        qos.moved = tag
        qos.append(message(tag), tag)


def unstarted(broker: Broker) -> TransportQoS:
    """A record of deliveries that returns no message to its queue when it is collected."""
    made = TransportQoS(broker)
    made._on_collect.cancel()
    return made
