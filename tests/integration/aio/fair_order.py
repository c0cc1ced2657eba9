"""The order of `worker/aio/transport/lua/share.lua`, implemented as simply as possible.

A message is a text: the id of its tenant, a colon and a number. An entry without a colon is not a
message.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import chain

WINDOW, CHUNK, BURST, MANY = 128, 128, 16, 32
NOBODY = "-"


@dataclass
class Tenant:
    """A tenant while the window is read."""

    name: str
    was_read: bool = True
    time: float = 0.0
    has_sublist: bool = False
    stood: int = 0
    count: int = 0
    front: deque[str] = field(default_factory=deque)
    """The entries that stood in the window, or came back."""
    new: deque[str] = field(default_factory=deque)


class FairQueue:
    """A list and the sublists of its tenants."""

    def __init__(self) -> None:
        self.list: list[str] = []
        """The entries, the next one first."""
        self.sublists: dict[str, deque[str]] = {}
        self.times: dict[str, float] = {}
        self.past: dict[str, float] = {}
        self.at = 0.0
        self.newest: str | None = None
        self.is_known = self.is_charged = False
        self.again: Counter[str] = Counter()
        """The entries that came back."""

    def charge(self, tenant: str, amount: float) -> None:
        for times in (self.times, self.past):
            if tenant in times:
                times[tenant] += amount
                self.is_charged = True

    def share(self) -> int:
        """Put the list in order; the result 3 means: call it again at once."""
        count = len(self.list)
        if not self.is_known:
            probed = chain(self.list[:32], self.list[-32:])
            if not any(_tenant_of(item) != NOBODY for item in probed):
                return 1 if count else 0
        if not count or (self.list[-1] == self.newest and not self.is_charged):
            if not self.times or count >= WINDOW / 2:
                return 2 if count or self.times else 0
            self._extend()
            return 3 if count < WINDOW / 4 else 2 if count or self.times else 0
        return 2 if count <= self._rebuild() else 3

    def _extend(self) -> None:
        room = WINDOW - len(self.list)
        tenants = self._lined({}, room)
        chosen = self._choose(tenants, room)
        self.list += chosen
        self._save(tenants, self.at, self.list[-1] if self.list else None)

    def _rebuild(self) -> int:
        items, self.list = self.list[: WINDOW + CHUNK], self.list[WINDOW + CHUNK :]
        tenants: dict[str, Tenant] = {}
        others: list[str] = []
        is_old = self.newest in items
        for item in items:
            if ":" not in item:
                others.append(item)
                continue
            name = _tenant_of(item)
            tenant = tenants.setdefault(name, Tenant(name))
            tenant.stood += is_old
            (tenant.front if is_old or self.again[item] else tenant.new).append(item)
            is_old = is_old and item != self.newest
        if not self.times and [*tenants] == [NOBODY]:
            self.list = items + self.list
            self.past, self.at, self.newest, self.is_known = {}, 0.0, None, False
            self.is_charged = False
            return len(items)
        every = [*tenants.values(), *self._lined(tenants, WINDOW)]
        at = self._read_times(every)
        every.sort(key=lambda tenant: (tenant.time, tenant.name))
        chosen = self._choose(every, WINDOW)
        for tenant in every:
            if tenant.front or tenant.new:
                sublist = self.sublists.setdefault(tenant.name, deque())
                sublist.extendleft(reversed(tenant.front))
                sublist.extend(tenant.new)
                tenant.has_sublist = True
        self.list = [*chosen, *reversed(others), *self.list]
        self._save(every, at, chosen[-1] if chosen else None)
        return len(items)

    def _lined(self, but: dict[str, Tenant], room: int) -> list[Tenant]:
        first = sorted(self.times, key=lambda name: (self.times[name], name))
        return [
            Tenant(name, was_read=False, time=self.times[name], has_sublist=True)
            for name in first[: max(MANY, room // 2) + 1]
            if name not in but
        ]

    def _read_times(self, tenants: list[Tenant]) -> float:
        least = []
        begun = set()
        for tenant in tenants:
            time = self.times.get(tenant.name, self.past.get(tenant.name))
            tenant.has_sublist = tenant.name in self.times
            if time is not None:
                begun.add(tenant.name)
                tenant.time = time - tenant.stood
                if tenant.has_sublist or tenant.stood:
                    least.append(tenant.time)
        at = max(self.at, min(least, default=0))
        behind = max(0, at - BURST)
        for tenant in tenants:
            tenant.time = max(behind, tenant.time if tenant.name in begun else behind)
        return at

    def _choose(self, tenants: list[Tenant], most: int) -> list[str]:
        chosen: list[str] = []
        new, again = deque(tenants), deque[Tenant]()
        turn = 2 if len(tenants) > MANY else 1
        while len(chosen) < most and (new or again):
            is_again = again and not (new and new[0].time <= again[0].time + again[0].count)
            tenant = again.popleft() if is_again else new.popleft()
            taken = [item for _ in range(turn) if (item := self._next_of(tenant)) is not None]
            tenant.count += len(taken)
            chosen += taken
            if taken:
                again.append(tenant)
        return chosen

    def _next_of(self, tenant: Tenant) -> str | None:
        if tenant.front:
            return tenant.front.popleft()
        if sublist := self.sublists.get(tenant.name):
            return sublist.popleft()
        tenant.has_sublist = False
        return tenant.new.popleft() if tenant.new else None

    def _save(self, tenants: list[Tenant], at: float, newest: str | None) -> None:
        for tenant in tenants:
            if tenant.was_read or tenant.count or not tenant.has_sublist:
                times = self.times if tenant.has_sublist else self.past
                times[tenant.name] = tenant.time + tenant.count
                if not tenant.has_sublist:
                    self.times.pop(tenant.name, None)
                elif tenant.was_read:
                    self.past.pop(tenant.name, None)
        self.past = {name: time for name, time in self.past.items() if time >= at - BURST}
        self.at, self.newest, self.is_charged, self.is_known = at, newest, False, True


def _tenant_of(item: str) -> str:
    return item.partition(":")[0] if ":" in item else NOBODY
