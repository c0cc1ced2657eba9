"""Who holds acknowledgements that are not sent yet, so that a worker that ends can have them sent."""

import logging
from typing import Protocol
from weakref import WeakSet

logger = logging.getLogger(__name__)


class Flushable(Protocol):
    """Holds acknowledgements."""

    def flush_acks(self) -> None:
        """Send them."""


_holders: "WeakSet[Flushable]" = WeakSet()


def register(holder: Flushable) -> None:
    """Remember a holder for as long as it lives."""
    _holders.add(holder)


def flush_all() -> None:
    """Have every holder send what it has; one that cannot is named in the log and keeps it."""
    for holder in list(_holders):
        try:
            holder.flush_acks()
        except Exception as exc:  # noqa: BLE001 - of any transport; one line, because each lost connection comes by here
            logger.warning("could not send acknowledgements: %s", exc)
