"""Redis Sentinels: which server is the primary at this moment.

The client's part of Sentinel's protocol: ask one sentinel after the other for the address, connect
to it, and see that it is a primary. Nothing is kept between two connections, so that each new
connection follows a failover.
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
from worker.aio.redis_retry import needs_a_person, words_of

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
    """Have a client come to each address of its host."""
    pool = client.connection_pool
    pool.connection_class = _OVER_ADDRESSES[pool.connection_class]
    return client


class UnknownPrimary(redis.ConnectionError):
    """The sentinels that answer watch no primary of this name."""


class Sentinels:
    """The sentinels that watch one primary.

    Args:
        addresses: Host and port of each.
        master_name: The primary's name, as their configuration has it (`sentinel monitor NAME …`).
        options: What redis-py's client needs to reach them: user, password, TLS.
    """

    _good: Final[dict[tuple[Address, ...], Address]] = {}
    """The sentinel that led to a primary last, by all of them. Threads share it."""

    _primaries: Final[dict[tuple[tuple[Address, ...], str], Address]] = {}
    """The primary that a connection of this process was last opened to, by sentinels and name."""

    def __init__(
        self, addresses: Iterable[Address], master_name: str, options: Mapping[str, Any]
    ) -> None:
        self._addresses = tuple((host, int(port)) for host, port in addresses)
        self._options = {**_OPTIONS, **options}
        self.master_name = master_name

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Host and port of each."""
        return self._addresses

    @property
    def has_tls(self) -> bool:
        """Whether the connections to them have TLS."""
        return bool(self._options.get("ssl"))

    def __repr__(self) -> str:
        """Name the primary and the addresses, and no password."""
        return f"<Sentinels of {self.master_name} at {self._addresses}>"

    def primary(self) -> Address:
        """Ask for the primary's address, and block for it.

        Raises:
            UnknownPrimary: They watch no primary of this name.
            redis.AuthenticationError: They do not let this client in.
            redis.ConnectionError: None of them answers.
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
                answers.knows_nothing()
        raise answers.error()

    async def find_primary(self) -> Address:
        """Ask for the primary's address as `primary` does, without blocking."""
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
                answers.knows_nothing()
        raise answers.error()

    def confirm(self, primary: Address) -> None:
        """Note that the server at this address is the primary."""
        self._primaries[self._addresses, self.master_name] = primary

    def is_former(self, address: Address) -> bool:
        """Whether another server has been found to be the primary since.

        Where the former one was only cut off, it takes writes for some ten seconds more, until the
        sentinels make it a replica. What is written there is lost.
        """
        return self._primaries.get((self._addresses, self.master_name), address) != address

    def mistrust(self) -> None:
        """Note that the address led to no primary; the next question may go to another sentinel.

        One that is cut off from the others goes on naming the old primary.
        """
        self._good.pop(self._addresses, None)

    def _found(self, sentinel: Address, found: Any) -> Address:
        self._good[self._addresses] = sentinel
        host, port = found
        return str(host), int(port)

    def _in_order(self) -> Iterator[Address]:
        """The one that led to a primary last comes first: others may be down for long."""
        good = self._good.get(self._addresses)
        if good is not None:
            yield good
        rest = [address for address in self._addresses if address != good]
        yield from random.sample(rest, len(rest))

    def _client(self, address: Address) -> dict[str, Any]:
        host, port = address
        return {**self._options, "host": host, "port": port}


class _Answers:
    """What sentinels said that did not name a primary."""

    def __init__(self, master_name: str) -> None:
        self._master_name = master_name
        self._failures: list[tuple[Address, Exception]] = []
        self._nothing = False

    def failed(self, address: Address, exc: Exception) -> None:
        self._failures.append((address, exc))

    def knows_nothing(self) -> None:
        self._nothing = True

    def error(self) -> redis.ConnectionError:
        """The error of a question that no sentinel has answered."""
        if self._nothing:
            return UnknownPrimary(f"the sentinels watch no primary of the name {self._master_name}")
        failures = "; ".join(
            f"{host}:{port}: {words_of(exc)}" for (host, port), exc in self._failures
        )
        refusal = next((exc for _, exc in self._failures if needs_a_person(exc)), None)
        kind = redis.ConnectionError if refusal is None else redis.AuthenticationError
        error = kind(f"no sentinel answers ({failures})")
        error.__cause__ = refusal or (self._failures[0][1] if self._failures else None)
        return error
