"""Whose turn it is among the tenants whose jobs wait in one queue of a process."""

from collections.abc import Sequence
from typing import Final

_AHEAD: Final = 8
"""How many leases a tenant that comes anew may get before the others get one."""
_MOST_TENANTS: Final = 1_000


class TenantTurns:
    """Counts the leases that tenants got; the one with the fewest comes next."""

    def __init__(self) -> None:
        self._granted: dict[str, int] = {}
        self._waited: dict[str, None] = {}
        """The tenants whose jobs waited when the order was last asked for."""
        self._at = 0
        """The fewest leases that one of them got."""

    def note_granted(self, tenant: str) -> None:
        """Count a lease that a job of a tenant got."""
        if tenant not in self._granted and len(self._granted) >= _MOST_TENANTS:
            self._granted.clear()
            self._at = 0
        self._granted[tenant] = self._granted.get(tenant, 0) + 1

    def order(self, tenants: Sequence[str]) -> Sequence[int]:
        """Put jobs in turn.

        Args:
            tenants: The tenant of each job, in the order of their arrival; those that name none are
                one tenant.

        Returns:
            The places of the jobs among those given.
        """
        names = dict.fromkeys(tenants)
        known = [self._granted.get(name, 0) for name in names if name in self._waited]
        self._at = max(self._at, min(known, default=0))
        self._waited = names
        if len(names) < 2:  # noqa: PLR2004 - nobody takes turns with anybody
            return range(len(tenants))
        # A tenant that did not wait before earns no credit for that, except for a few leases.
        begin = max(0, self._at - _AHEAD)
        turns = {name: max(begin, self._granted.get(name, begin)) for name in names}
        self._granted |= turns
        placed = []
        for number, name in enumerate(tenants):
            placed.append((turns[name], number))
            turns[name] += 1
        return [number for _, number in sorted(placed)]
