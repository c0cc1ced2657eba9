"""Asks Redis Sentinels which server is the primary at this moment.

This is the client's part of Sentinel's protocol: ask one sentinel after the other for the primary's
address, connect to the address, and check that the server is a primary. The address is not cached:
each new connection asks again, so it follows a failover.
Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.aio.addresses import BlockingOverAddresses, OverAddresses
from worker.aio.redis_retry import is_access_error, safe_message

Address = tuple[str, int]


class _TlsBlocking(redis.SSLConnection, BlockingOverAddresses):
    pass


class _Tls(redis.asyncio.SSLConnection, OverAddresses):
    pass


PORT: Final = 26379
_QUESTION: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")
_OPTIONS: Final[Mapping[str, Any]] = {
    "decode_responses": True,
    "socket_connect_timeout": 1.0,
    "socket_timeout": 2.0,
}


_OVER_ADDRESSES: Final[Mapping[Any, type]] = {
    redis.Connection: BlockingOverAddresses,
    redis.SSLConnection: _TlsBlocking,
    redis.asyncio.Connection: OverAddresses,
    redis.asyncio.SSLConnection: _Tls,
}


def _client(**options: Any) -> Any:
    return _over_addresses(redis.Redis(**options, retry=Retry(NoBackoff(), 0)))


def _over_addresses(client: Any) -> Any:
    """Make a client try each address of its host."""
    pool = client.connection_pool
    pool.connection_class = _OVER_ADDRESSES[pool.connection_class]
    return client


class UnknownPrimary(redis.ConnectionError):
    """Some sentinels answer, but none of these watches a primary of this name."""


class Sentinels:
    """The sentinels that watch one primary.

    Args:
        addresses: Host and port of each sentinel.
        master_name: The primary's name in the sentinels' configuration (`sentinel monitor NAME …`).
        options: redis-py's options to reach the sentinels: user, password, TLS.
    """

    _last_good: Final[dict[tuple[Address, ...], Address]] = {}
    """The sentinel that last led to a primary, by all sentinels' addresses. Threads share this."""

    _primaries: Final[dict[tuple[tuple[Address, ...], str], Address]] = {}
    """The primary that this process last connected to, by the sentinels' addresses and its name."""

    def __init__(
        self, addresses: Iterable[Address], master_name: str, options: Mapping[str, Any]
    ) -> None:
        self._addresses = tuple((host, int(port)) for host, port in addresses)
        self._options = {**_OPTIONS, **options}
        self.master_name = master_name

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Host and port of each sentinel."""
        return self._addresses

    @property
    def has_tls(self) -> bool:
        """Whether the connections to the sentinels have TLS."""
        return bool(self._options.get("ssl"))

    def __repr__(self) -> str:
        """Show the primary's name and the sentinels' addresses, without the password."""
        return f"<Sentinels of {self.master_name} at {self._addresses}>"

    def primary(self) -> Address:
        """Ask the sentinels for the primary's address. Blocks the thread.

        Raises:
            UnknownPrimary: Sentinels answer, but none of these watches a primary of this name.
            redis.AuthenticationError: No sentinel answers this question; some deny access.
            redis.ConnectionError: No sentinel answers.
        """
        answers = _Answers(self.master_name)
        for address in self._in_order():
            try:
                with closing(_client(**self._client(address))) as client:
                    found = client.execute_command(*_QUESTION, self.master_name)
            except (redis.RedisError, OSError) as exc:
                answers.failed(address, exc)
            else:
                if found:
                    return self._found(address, found)
                answers.note_unknown_name()
        raise answers.error()

    async def find_primary(self) -> Address:
        """Ask for the primary's address as `primary` does, without blocking the thread."""
        answers = _Answers(self.master_name)
        for address in self._in_order():
            client = _over_addresses(
                redis.asyncio.Redis(**self._client(address), retry=AsyncRetry(NoBackoff(), 0))
            )
            try:
                async with client:
                    found: Any = await client.execute_command(*_QUESTION, self.master_name)
            except (redis.RedisError, OSError) as exc:
                answers.failed(address, exc)
            else:
                if found:
                    return self._found(address, found)
                answers.note_unknown_name()
        raise answers.error()

    def confirm(self, primary: Address) -> None:
        """Note that the server at this address is the primary."""
        self._primaries[self._addresses, self.master_name] = primary

    def is_former(self, address: Address) -> bool:
        """Whether a server is no longer the primary, because `confirm` has noted another one.

        If the old primary was only cut off for a while, it accepts writes for some ten seconds
        more, until the sentinels make it a replica. Those writes are lost.
        """
        return self._primaries.get((self._addresses, self.master_name), address) != address

    def forget_sentinel(self) -> None:
        """Note that the address led to no primary, so that another sentinel may be asked next.

        A sentinel that is cut off from the others still names the old primary.
        """
        self._last_good.pop(self._addresses, None)

    def _found(self, sentinel: Address, found: Any) -> Address:
        self._last_good[self._addresses] = sentinel
        host, port = found
        return str(host), int(port)

    def _in_order(self) -> Iterator[Address]:
        """Yield first the sentinel that last led to a primary: others may be down for long."""
        good = self._last_good.get(self._addresses)
        if good is not None:
            yield good
        rest = [address for address in self._addresses if address != good]
        yield from random.sample(rest, len(rest))

    def _client(self, address: Address) -> dict[str, Any]:
        host, port = address
        return {**self._options, "host": host, "port": port}


class _Answers:
    """The answers of sentinels that did not name a primary."""

    def __init__(self, master_name: str) -> None:
        self._master_name = master_name
        self._failures: list[tuple[Address, Exception]] = []
        self._is_unknown_name = False

    def failed(self, address: Address, exc: Exception) -> None:
        self._failures.append((address, exc))

    def note_unknown_name(self) -> None:
        self._is_unknown_name = True

    def error(self) -> redis.ConnectionError:
        """Return the error to raise if no sentinel has named a primary."""
        if self._is_unknown_name:
            return UnknownPrimary(f"the sentinels watch no primary of the name {self._master_name}")
        failures = "; ".join(
            f"{host}:{port}: {safe_message(exc)}" for (host, port), exc in self._failures
        )
        refusal = next((exc for _, exc in self._failures if is_access_error(exc)), None)
        kind = redis.ConnectionError if refusal is None else redis.AuthenticationError
        error = kind(f"no sentinel answers ({failures})")
        error.__cause__ = refusal or (self._failures[0][1] if self._failures else None)
        return error
