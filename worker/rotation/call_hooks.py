"""Defines the hooks that run before and after each call to a provider."""

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from worker.keypool import Lease
from worker.verdicts import Reply

RequestT = TypeVar("RequestT")
RequestT_co = TypeVar("RequestT_co", covariant=True)


class CallHooks(Protocol[RequestT_co]):
    """Hooks around each call, for a request that must not be carried out twice."""

    async def before(self, lease: Lease) -> RequestT_co:
        """Build the request for the key of a lease, and record it before its first byte leaves.

        An exception ends the turn, and the lease goes back unused.
        """
        ...

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Record the outcome of the request. This raises no error if Redis is down."""
        ...

    def recipients(self, reply: Reply) -> Mapping[str, int]:
        """Return how many recipients the call reached, by tenant; empty if it carried no emails.

        This is called before `after`.
        """
        ...


class NoHooks(Generic[RequestT]):
    """The hooks of a request that may be repeated: they build the request and record nothing.

    Args:
        build: Builds the request for a lease, from its key and its reserved tokens.
    """

    def __init__(self, build: Callable[[Lease], RequestT]) -> None:
        self._build = build

    async def before(self, lease: Lease) -> RequestT:
        """Build the request."""
        return self._build(lease)

    async def after(self, lease: Lease, reply: Reply) -> None:
        """Record nothing."""

    def recipients(self, reply: Reply) -> Mapping[str, int]:  # noqa: ARG002 - there are none
        """Return nothing."""
        return {}
