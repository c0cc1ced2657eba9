"""A poller of channels with a hub of its own; neither is started."""

from math import inf
from typing import Any
from unittest.mock import Mock

from worker.aio.transport.poller import Poller


def channel_of(**changes: Any) -> Any:
    fields = {"active_queues": {"a"}, "active_fanout_queues": set(), "takes": True}
    return Mock(**fields | {"share_at_s": inf} | changes)


def poller_of(*channels: Any) -> Any:
    cycle = Poller()
    cycle._channels = dict.fromkeys(channels)  # type: ignore[assignment] # in their order
    cycle.hub = Mock()
    return cycle
