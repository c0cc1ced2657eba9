"""A lane: emails that the same keys may send.

One of them asks for a key, the others wait in line and go with it.
"""

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum

from worker.emails.outgoing import OutgoingEmail
from worker.rotation.rotation import Served


class Signal(Enum):
    """What an email in line is told, other than its outcome."""

    LEAD = "lead"
    """It asks for the next key."""
    LINE = "line"
    """It stands in line again: nothing was sent, and a key will be free soon."""
    AGAIN = "again"
    """It starts over with a look into the outbox."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made with an email.

    The key's label, the verdict's code, and whether it is in doubt.
    """

    key: str
    code: str
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What an email in line gets in the end.

    Attributes:
        outcome: Its result, the error that ends its turn, or a signal.
        calls: The calls that were made with it.
    """

    outcome: Served | BaseException | Signal
    calls: tuple[Call, ...] = ()


Seat = asyncio.Future[Told]
"""Where an email in line is told."""


@dataclass(slots=True)
class Lane:
    """The line, and whether somebody leads it."""

    led: bool = False
    line: dict[OutgoingEmail, Seat] = field(default_factory=dict)

    async def wait(self, email: OutgoingEmail) -> Told | None:
        """Stand in line until there is news; None.

        The time was over before somebody took the email along.
        """
        seat: Seat = asyncio.get_running_loop().create_future()
        self.line[email] = seat
        began = time.monotonic()
        try:
            await asyncio.wait({seat}, timeout=email.left_s())
            email.waited_ms += round((time.monotonic() - began) * 1000)
            if not seat.done() and email in self.line:
                return None
            return await seat
        except asyncio.CancelledError:
            if seat.done() and not seat.cancelled() and seat.result().outcome is Signal.LEAD:
                self.pass_on()
            seat.cancel()  # nobody shall take it along any more
            raise
        finally:
            self.line.pop(email, None)

    def pass_on(self) -> None:
        """Let the first in line lead."""
        self.led = False
        for email, seat in list(self.line.items()):
            del self.line[email]
            if tell(seat, Told(Signal.LEAD)):
                self.led = True
                return


def tell(seat: Seat, told: Told) -> bool:
    """Tell an email, unless its job has gone."""
    if seat.done():
        return False
    seat.set_result(told)
    return True
