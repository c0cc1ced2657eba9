"""Knows the unsent acknowledgements of a process, and the jobs that outlive their connection.

kombu creates transports and channels, so the pool reaches them through one object of the process.
"""

import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

logger = logging.getLogger(__name__)


class Flushable(Protocol):
    """A holder of acknowledgements."""

    def flush_acks(self) -> None:
        """Send the acknowledgements."""


class Releasing(Protocol):
    """A keeper of leases on messages."""

    def release_detached(self) -> None:
        """Release the messages of closed channels."""


KeeperT = TypeVar("KeeperT", bound=Releasing)


class Unacked:
    """The holders of acknowledgements and the keepers of leases of all channels.

    Attributes:
        running_jobs: The pool's function for `tags_that_run_on`; None while no pool runs.
    """

    def __init__(self) -> None:
        self.running_jobs: Callable[[set[str]], set[str]] | None = None
        self._holders: WeakSet[Flushable] = WeakSet()
        self._keepers: dict[Hashable, Any] = {}

    def register(self, holder: Flushable) -> None:
        """Remember a holder of acknowledgements for as long as it lives."""
        self._holders.add(holder)

    def flush_acks(self) -> None:
        """Have every holder send its acknowledgements; log the errors."""
        for holder in list(self._holders):
            try:
                holder.flush_acks()
            except Exception as exc:  # noqa: BLE001 - of any transport; each lost connection leads here
                logger.warning(
                    "cannot send acknowledgements (%s); the broker delivers those messages again",
                    exc,
                )

    def keeper(self, key: Hashable, make: Callable[[], KeeperT]) -> KeeperT:
        """Return the keeper of the leases on one server, and make it at the first call.

        Args:
            key: Identifies the server and the keys on it.
            make: Makes the keeper.
        """
        if key not in self._keepers:
            self._keepers[key] = make()
        keeper: KeeperT = self._keepers[key]
        return keeper

    def release_detached(self) -> None:
        """Release the messages of closed channels, because this process will not end their jobs."""
        for keeper in self._keepers.values():
            keeper.release_detached()

    def tags_that_run_on(self, held: Iterable[str]) -> set[str]:
        """Return the tags of a channel's messages whose jobs run on after its connection has ended.

        The channel will put back all its other messages. So before this returns, the pool drops
        jobs that have not begun, and acknowledges jobs that have ended. A job that runs on takes up
        room until it is acknowledged: the next channel takes one message fewer for it.

        Args:
            held: The delivery tags of the messages that the channel has delivered and not seen
                acknowledged. Jobs of other channels are not affected: a job may consume on a
                connection of its own, and close it.
        """
        return self.running_jobs(set(held)) if self.running_jobs is not None else set()


of_process: Final = Unacked()
