"""Connects to hosts with several addresses, some of which may not answer at all.

A host may have an IPv6 address that no packet reaches, or several servers of which one is down.
redis-py's connections for asyncio spend the whole timeout on the first address and never try the
next one. Its blocking connections try the next one, but spend the timeout on the dead address each
time they connect. The connections here divide the timeout among the addresses, and begin with the
address that answered last.
"""

import asyncio
import ipaddress
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import redis
import redis.asyncio

_UNBOUNDED_S: Final = 5.0
"""The timeout of each address but the last, in seconds, if the connection itself has no timeout."""
_LEAST_S: Final = 0.1
"""The least time to divide among the remaining addresses, in seconds."""

_answered: Final[dict[tuple[str, int], str]] = {}
"""The address that answered last, by host and port. Threads share it."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _in_order(host: str, port: int, infos: Iterable[Any]) -> list[str]:
    """Return the address that answered last, then the others in the system's order.

    Args:
        host: The host's name.
        port: The host's port.
        infos: The return value of `getaddrinfo`.
    """
    addresses = list(dict.fromkeys(_address_of(sockaddr) for *_, sockaddr in infos))
    last = _answered.get((host, port))
    return sorted(addresses, key=lambda address: address != last)


def _address_of(sockaddr: tuple[Any, ...]) -> str:
    address, *_ = sockaddr
    zone = sockaddr[3:]  # set for an IPv6 address that is valid on one interface only
    return f"{address}%{zone[0]}" if zone and zone[0] and "%" not in address else str(address)


def _shares(addresses: list[str], timeout_s: float | None) -> Iterator[tuple[str, float | None]]:
    """Yield each address with its timeout: an equal part of the time that is left."""
    began_s = time.monotonic()
    for later, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        if timeout_s is None:
            yield address, _UNBOUNDED_S if later else None
        else:
            left_s = timeout_s - (time.monotonic() - began_s)
            yield address, max(left_s, _LEAST_S) / (later + 1)


class BlockingOverAddresses(redis.Connection):
    """A blocking connection to the first address that answers."""

    def _connect(self) -> socket.socket:
        if _is_address(self.host):
            return super()._connect()  # type: ignore[no-untyped-call, no-any-return]
        host, timeout_s = self.host, self.socket_connect_timeout
        infos = socket.getaddrinfo(host, self.port, self.socket_type, socket.SOCK_STREAM)
        failed = OSError("the host has no address")
        try:
            for address, share_s in _shares(_in_order(host, self.port, infos), timeout_s):
                self.host, self.socket_connect_timeout = address, share_s
                try:
                    connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
                except OSError as exc:
                    failed = exc
                else:
                    _answered[host, self.port] = address
                    return connected
        finally:
            self.host, self.socket_connect_timeout = host, timeout_s
        raise failed


class OverAddresses(redis.asyncio.Connection):
    """An asyncio connection to the first address that answers."""

    _address = ""

    def _connection_arguments(self) -> Mapping[Any, Any]:
        arguments: dict[str, Any] = dict(super()._connection_arguments())
        if self._address:
            arguments["host"] = self._address
            if isinstance(self, redis.asyncio.SSLConnection):
                arguments["server_hostname"] = self.host  # the certificate names the host
        return arguments

    async def _connect(self) -> None:
        if _is_address(self.host):
            await super()._connect()  # type: ignore[no-untyped-call]
            return
        timeout_s = self.socket_connect_timeout
        async with asyncio.timeout(timeout_s):
            infos = await asyncio.get_running_loop().getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM
            )
        failed = OSError("the host has no address")
        try:
            addresses = _in_order(self.host, self.port, infos)
            for self._address, self.socket_connect_timeout in _shares(addresses, timeout_s):
                try:
                    await super()._connect()  # type: ignore[no-untyped-call]
                except OSError as exc:
                    failed = exc
                else:
                    _answered[self.host, self.port] = self._address
                    return
        finally:
            self._address, self.socket_connect_timeout = "", timeout_s
        raise failed
