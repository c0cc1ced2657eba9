"""What runs before and after each call to a provider."""

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from worker.keypool import Lease
from worker.verdicts import Reply

RequestT = TypeVar("RequestT")
RequestT_co = TypeVar("RequestT_co", covariant=True)


class CallHooks(Protocol[RequestT_co]):
    """Hooks around each call of a request that must not be carried out twice."""

    async def before(self, lease: Lease) -> RequestT_co:
        """Make the request for the key of a lease, and record it before a byte of it leaves.

        An exception ends the turn, and the lease goes back unused.
        """
        ...

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Record what became of the request. A Redis that is down raises nothing here."""
        ...

    def recipients(self, reply: Reply) -> Mapping[str, int]:
        """How many recipients the call reached, by tenant, if it was one with emails.

        Asked before `after`. A request of another kind has an empty answer.
        """
        ...


class NoHooks(Generic[RequestT]):
    """The hooks of a request that may be repeated: they build it and record nothing.

    Args:
        build: Makes the request for a lease: for its key, and for what was reserved.
    """

    def __init__(self, build: Callable[[Lease], RequestT]) -> None:
        self._build = build

    async def before(self, lease: Lease) -> RequestT:
        """Make the request."""
        return self._build(lease)

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Record nothing."""

    def recipients(self, reply: Reply) -> Mapping[str, int]:  # noqa: ARG002 - there are none
        """Return nothing."""
        return {}
