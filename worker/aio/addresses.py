"""Connections to a host with several addresses, of which one may not answer at all.

A name may have an IPv6 address that no packet reaches, or stand for several servers of which one is
gone without a word. redis-py's connections for asyncio spend their time on the first address and
never come to the next one; the blocking ones need that time again for each connection. These divide
the time among the addresses, and begin with the one that answered last.
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
"""For an address that others follow, where a connection may take any time."""
_LEAST_S: Final = 0.1

_answered: Final[dict[tuple[str, int], str]] = {}
"""The address that answered last, by host and port. Threads share it."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _in_order(host: str, port: int, infos: Iterable[Any]) -> list[str]:
    """The addresses in the system's order, after the one that answered last.

    Args:
        host: Whose addresses they are.
        port: Its port.
        infos: What `getaddrinfo` has returned.
    """
    addresses = list(dict.fromkeys(_written(where) for *_, where in infos))
    last = _answered.get((host, port))
    return sorted(addresses, key=lambda address: address != last)


def _written(where: tuple[Any, ...]) -> str:
    address, *_ = where
    zone = where[3:]  # of an IPv6 address that is valid on one interface only
    return f"{address}%{zone[0]}" if zone and zone[0] and "%" not in address else str(address)


def _shares(addresses: list[str], timeout_s: float | None) -> Iterator[tuple[str, float | None]]:
    """Yield each address and the time for it: an equal part of what is left."""
    began_s = time.monotonic()
    for later, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        if timeout_s is None:
            yield address, _UNBOUNDED_S if later else None
        else:
            left_s = timeout_s - (time.monotonic() - began_s)
            yield address, max(left_s, _LEAST_S) / (later + 1)


class BlockingOverAddresses(redis.Connection):
    """Connects to the first address that answers."""

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
    """Connects to the first address that answers."""

    _address = ""

    def _connection_arguments(self) -> Mapping[Any, Any]:
        arguments: dict[str, Any] = dict(super()._connection_arguments())
        if self._address:
            arguments["host"] = self._address
            if isinstance(self, redis.asyncio.SSLConnection):
                arguments["server_hostname"] = self.host  # as its certificate names it
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
