"""Connects a channel to the primary that sentinels name."""

from collections.abc import Sequence
from typing import Any

from worker.aio.connections import BlockingSentinelConnection, BlockingSentinelTlsConnection
from worker.aio.sentinels import Sentinels
from worker.aio.transport.channel import Channel


class SentinelChannel(Channel):
    """A channel whose connections ask sentinels where the primary is, each time they open."""

    connection_class = BlockingSentinelConnection
    connection_class_ssl = BlockingSentinelTlsConnection
    from_transport_options = (
        *Channel.from_transport_options,
        "sentinels",
        "master_name",
        "sentinel_kwargs",
    )
    sentinels: Sequence[tuple[str, int]] = ()
    """Host and port of each sentinel."""
    master_name: str
    """The primary's name in the sentinels' configuration."""
    sentinel_kwargs: dict[str, Any]
    """Options of redis-py for connections to the sentinels: user, password, TLS."""

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        return super()._connparams(asynchronous=asynchronous) | {
            "sentinels": Sentinels(self.sentinels, self.master_name, self.sentinel_kwargs)
        }
