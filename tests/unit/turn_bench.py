"""A turn of a job without Redis or provider: a test scripts each part."""

import asyncio
from collections import deque
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from config.api_key import make_key
from worker.keypool import Lease, LeaseRequest, NoLease, NoLeaseReason, Settled
from worker.rotation import turn
from worker.rotation.limiter import SLOTS, KeyedLimiter
from worker.rotation.turn import Turn
from worker.verdicts import Effect, Fate, Reply, Verdict

KEYS = [make_key("groq", secret=f"gsk_{n:046}", variable=f"GROQ_{n}") for n in range(3)]
OK = Reply(Verdict(Fate.DONE, "ok", status=200), {"text": "hello"})
REFUSED = Reply(Verdict(Fate.NEXT_KEY, "rate_limit", "no", effect=Effect.COOL, status=429))
SERVER_ERROR = Reply(Verdict(Fate.RETRY, "server_error", "it failed", definite=False, status=502))
WAIT = NoLease(NoLeaseReason.WAIT, reason="rpm")
REQUEST = LeaseRequest(model="m", by="job", waited_ms=5_000)


def lease(number: int = 0, *, wait_ms: int = 0, request: LeaseRequest = REQUEST) -> Lease:
    return Lease(f"lease-{number}", KEYS[number], f"account-{number}", request, wait_ms)


def settled(*, newly: bool) -> Settled:
    return Settled(late=False, blocked=newly, newly=newly)


class Bench:
    """The pool, the line of jobs, the provider and the hooks of a turn, scripted by a test."""

    is_used = False

    def __init__(self) -> None:
        self.now_s = 100.0
        self.leases: deque[tuple[Lease | NoLease, float]] = deque()
        self.requests: list[tuple[LeaseRequest, bool, float | None]] = []
        self.second_requests: list[LeaseRequest] = []
        self.again: Lease | NoLease = WAIT
        self.confirms: deque[Lease | BaseException | None] = deque()
        self.replies: deque[Any] = deque()
        self.settled: list[tuple[str, Verdict, bool]] = []
        self.settling: Any = settled(newly=False)
        self.happened: list[Any] = []
        self.starting: BaseException | None = None
        self.making: BaseException | None = None
        self.slots = KeyedLimiter()
        self.counted: list[tuple[int, str]] = []

    def turn(self, request: LeaseRequest = REQUEST, **more: Any) -> Turn[str]:
        parts: dict[str, Any] = {
            "pool": SimpleNamespace(
                service="groq", keys=KEYS, acquire=self._again, settle=self.settle,
                confirm=self.confirm, snapshot=self.snapshot, reinstate=self.reinstate,
            ),
            "provider": self, "waiting": self, "sending": self.slots, "before_call": None,
            "lease_request": request, "hooks": self, "longest_s": None,
            "calls": SimpleNamespace(call=self._count),
        }  # fmt: skip
        return Turn(**parts | more)

    async def acquire(
        self, request: LeaseRequest, *, in_turn: bool, longest_s: float | None
    ) -> Lease | NoLease:
        self.requests.append((request, in_turn, longest_s))
        answer, after_s = self.leases.popleft()
        self.now_s += after_s
        return answer

    async def await_start(self, lease: Lease) -> None:
        self.happened.append(("waits", lease.wait_ms, len(await self.free_slots())))
        self.now_s += lease.wait_ms / 1000
        if self.starting is not None:
            raise self.starting

    async def free_slots(self) -> list[Any]:
        """Take all free slots and give them back."""
        free = []
        while len(free) < 2 * SLOTS:
            try:
                async with asyncio.timeout(0):
                    free.append(await self.slots.acquire("m"))
            except TimeoutError:
                break
        for slot in free:
            slot.release()
        return free

    def notify_ended(self) -> None:
        self.happened.append("call ended")

    async def _again(self, request: LeaseRequest, line: Any) -> Lease | NoLease:
        assert line is None
        self.second_requests.append(request)
        return self.again

    async def settle(self, lease: Lease, verdict: Verdict, *, again: bool = False) -> Settled:
        self.settled.append((lease.id, verdict, again))
        if isinstance(self.settling, BaseException):
            error, self.settling = self.settling, settled(newly=False)
            raise error
        settled_as: Settled = self.settling
        return settled_as

    async def confirm(self, _: Lease) -> Lease | None:
        confirmed = self.confirms.popleft()
        if isinstance(confirmed, BaseException):
            raise confirmed
        return confirmed

    async def snapshot(self) -> Any:
        return SimpleNamespace(failed=1, keys=KEYS)

    async def reinstate(self, leases: list[Lease]) -> None:
        self.happened.append(("reinstated", [lease.id for lease in leases]))

    async def call(self, secret: Any, request: str, *, sent: Any) -> Reply:
        number = next(n for n, key in enumerate(KEYS) if key.secret == secret)
        self.happened.append(("called", number, request))
        sent()
        step = self.replies.popleft()
        if isinstance(step, BaseException):
            raise step
        reply: Reply = step
        return reply

    async def before(self, lease: Lease) -> str:
        if self.making is not None:
            raise self.making
        return f"for {lease.id}"

    async def after(self, lease: Lease, reply: Reply) -> None:
        self.happened.append(("after", lease.id, reply.verdict.code))

    def recipients(self, _: Reply) -> Mapping[str, int]:
        return {}

    def _count(self, _: Lease, verdict: Verdict, *, waited_ms: int, recipients: Any) -> None:
        assert recipients == {}
        self.counted.append((waited_ms, verdict.code))

    def called(self) -> list[int]:
        return [event[1] for event in self.happened if event[0] == "called"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(turn, "time", SimpleNamespace(monotonic=lambda: made.now_s))
    return made
