"""A queue: emails that the same keys may send.

One of them asks for a key, the others wait in line and go with it.
"""

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum

from worker.emails.outgoing import OutgoingEmail
from worker.rotation.served import Served


class Wake(Enum):
    """What an email in line is told, other than its outcome."""

    LEAD = "lead"
    """It asks for the next key."""
    WAIT = "wait"
    """It stands in line again: nothing was sent, and a key will be free soon."""
    LOOK_AGAIN = "look again"
    """It starts over with a look into the store."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made with an email.

    The key's label, the verdict's code, and whether it is in doubt.
    """

    key: str
    code: str
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an email in line gets in the end.

    Attributes:
        result: Its result, the error that ends its turn, or a signal.
        calls: The calls that were made with it.
    """

    result: Served | BaseException | Wake
    calls: tuple[Call, ...] = ()


Waiter = asyncio.Future[Outcome]
"""Where an email in line is told."""


@dataclass(slots=True)
class BatchQueue:
    """The line, and whether somebody leads it."""

    led: bool = False
    waiters: dict[OutgoingEmail, Waiter] = field(default_factory=dict)

    async def wait(self, email: OutgoingEmail) -> Outcome | None:
        """Stand in line until there is news; None.

        The time was over before somebody took the email along.
        """
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self.waiters[email] = waiter
        began = time.monotonic()
        try:
            await asyncio.wait({waiter}, timeout=email.left_s())
            email.waited_ms += round((time.monotonic() - began) * 1000)
            if not waiter.done() and email in self.waiters:
                return None
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result().result is Wake.LEAD:
                self.wake_next()
            waiter.cancel()  # nobody shall take it along any more
            raise
        finally:
            self.waiters.pop(email, None)

    def wake_next(self) -> None:
        """Let the first in line lead."""
        self.led = False
        for email, waiter in list(self.waiters.items()):
            del self.waiters[email]
            if wake(waiter, Outcome(Wake.LEAD)):
                self.led = True
                return


def wake(waiter: Waiter, outcome: Outcome) -> bool:
    """Tell an email, unless its job has gone."""
    if waiter.done():
        return False
    waiter.set_result(outcome)
    return True
