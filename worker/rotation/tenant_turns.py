"""Decides which tenant's turn it is among the jobs that wait in one queue of a process."""

from collections.abc import Sequence
from typing import Final

_AHEAD: Final = 8
"""How many leases ahead of the others a tenant may get if none of its jobs waited before."""
_MOST_TENANTS: Final = 1_000


class TenantTurns:
    """Counts the leases of each tenant; the tenant with the fewest comes next."""

    def __init__(self) -> None:
        self._granted: dict[str, int] = {}
        self._waited: dict[str, None] = {}
        """The tenants whose jobs waited at the last call of `order`."""
        self._at = 0
        """The smallest number of leases that one of these tenants got."""

    def note_granted(self, tenant: str) -> None:
        """Count a lease that a job of a tenant got."""
        if tenant not in self._granted and len(self._granted) >= _MOST_TENANTS:
            self._granted.clear()
            self._at = 0
        self._granted[tenant] = self._granted.get(tenant, 0) + 1

    def order(self, tenants: Sequence[str]) -> Sequence[int]:
        """Order jobs so that their tenants take turns.

        Args:
            tenants: The tenant of each job, in the order of arrival. Jobs without a tenant count as
                one tenant.

        Returns:
            The indices of the jobs, in their new order.
        """
        names = dict.fromkeys(tenants)
        known = [self._granted.get(name, 0) for name in names if name in self._waited]
        self._at = max(self._at, min(known, default=0))
        self._waited = names
        if len(names) < 2:  # noqa: PLR2004 - a single tenant does not take turns
            return range(len(tenants))
        # A tenant that did not wait before gets an advantage of a few leases at most.
        begin = max(0, self._at - _AHEAD)
        turns = {name: max(begin, self._granted.get(name, begin)) for name in names}
        self._granted |= turns
        placed = []
        for number, name in enumerate(tenants):
            placed.append((turns[name], number))
            turns[name] += 1
        return [number for _, number in sorted(placed)]
