"""Queues the emails that the same keys may send, and limits the sizes of their batches."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from worker.attempts import Attempt
from worker.emails.outgoing import OutgoingEmail
from worker.rotation.served import Served
from worker.rotation.tenant_turns import TenantTurns


class NextStep(Enum):
    """The next step of an email within its run."""

    SEND = "send"
    """Ask for a key, and send it as a new email, together with the emails that wait."""
    WAIT = "wait"
    """Wait in the queue again, because nothing was sent and a key will be free soon."""
    LOOK_AGAIN = "look again"
    """Look into the store, because another job has sent the email or is sending it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a wait in the queue.

    Attributes:
        result: The email's result, the error that ends its run, or its next step.
        calls: The calls that carried the email.
    """

    result: Served | BaseException | NextStep
    calls: tuple[Attempt, ...] = ()


Waiter = asyncio.Future[Outcome]
"""The future that an email in the queue waits for."""


@dataclass(slots=True)
class BatchQueue:
    """The emails that wait behind a leader.

    Attributes:
        led: A leader asks for a key now; the other emails wait.
        waiters: The emails that wait, in the order of their arrival.
        tenants: Decides which tenant's email is next to lead or to go along.
    """

    led: bool = False
    waiters: dict[OutgoingEmail, Waiter] = field(default_factory=dict)
    tenants: TenantTurns = field(default_factory=TenantTurns)

    def in_turn(self) -> list[tuple[OutgoingEmail, Waiter]]:
        """Return the emails that wait, ordered so that their tenants take turns."""
        waiting = list(self.waiters.items())
        return [waiting[at] for at in self.tenants.order([email.tenant for email, _ in waiting])]

    def lead(self, email: OutgoingEmail) -> None:
        """Make an email the leader. This uses a turn of its tenant."""
        self.led = True
        self.tenants.note_granted(email.tenant)

    def take(self, email: OutgoingEmail) -> None:
        """Let an email go along with the leader. This uses a turn of its tenant."""
        del self.waiters[email]
        self.tenants.note_granted(email.tenant)

    async def wait(self, email: OutgoingEmail) -> Outcome | None:
        """Wait until a batch has carried the email, or the email must take its next step.

        Returns:
            The outcome; None if the email's time was over before a leader took it along.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self.waiters[email] = waiter
        began_s = time.monotonic()
        try:
            await asyncio.wait({waiter}, timeout=email.left_s())
            email.waited_ms += round((time.monotonic() - began_s) * 1000)
            if not waiter.done() and email in self.waiters:
                return None
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._pass_on(waiter.result())
            waiter.cancel()  # so that no leader takes the email along
            raise
        finally:
            self.waiters.pop(email, None)

    def wake_next(self) -> None:
        """Make the next email in turn the leader."""
        self.led = False
        for email, waiter in self.in_turn():
            del self.waiters[email]
            if wake(waiter, Outcome(NextStep.SEND)):
                self.led = True
                return

    def _pass_on(self, outcome: Outcome) -> None:
        if outcome.result is NextStep.SEND:  # the email should lead, but its job was stopped
            self.wake_next()


def wake(waiter: Waiter, outcome: Outcome) -> bool:
    """Give a waiting email its outcome. Return False if its job no longer waits."""
    if waiter.done():
        return False
    waiter.set_result(outcome)
    return True


MOST_IN_BATCH = 100

_DAY_S = 86_400


class BatchSizes:
    """Halves the batches of an account whose quota has no room for them, down to single emails.

    Resend does not say how much of a quota is left, so a part of a refused batch may still fit. If
    a single email is refused, the account is closed.

    Args:
        now_s: The time in seconds since 1970.
    """

    def __init__(self, *, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._limits: dict[str, tuple[int, int]] = {}

    def limit(self, account: str) -> int:
        """Return how many emails may go out together now."""
        day, limit = self._limits.get(account, (0, MOST_IN_BATCH))
        return limit if day == self._today() else MOST_IN_BATCH  # quotas restart at midnight, UTC

    def is_searching(self, account: str) -> bool:
        """Return whether batches are being halved to find the size that the quota has room for."""
        return self.limit(account) < MOST_IN_BATCH

    def refused(self, account: str, *, size: int) -> None:
        """Learn from a batch that the quota had no room for.

        Args:
            account: The account of the quota.
            size: The number of emails in the batch. 1 ends the halving, because the account is then
                closed.
        """
        if size > 1:
            self._limits[account] = self._today(), min(self.limit(account), size // 2)
        else:
            self._limits.pop(account, None)

    def _today(self) -> int:
        return int(self._now_s() // _DAY_S)
