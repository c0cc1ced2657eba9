"""Faults that are injected for a time, for a number of calls, or for a share of them."""

import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from sandbox.accounts import Key

ANSWER_FAULTS = frozenset(
    {
        "reset_after",
        "truncated",
        "html_ok",
        "broken_json",
        "hang",
        "error_after",
        "stream_error",
        "stream_cut",
        "stream_hang",
    }
)
"""The kinds that accept the call and break the answer; all others refuse the call."""


@dataclass(slots=True)
class Fault:
    """One fault, and which calls it hits.

    Attributes:
        service: `groq` or `resend`.
        kind: What goes wrong; the service's file lists the names.
        status: The HTTP status, if the kind allows a choice; 0 takes the kind's own.
        ends_at_s: When the fault ends, in seconds since 1970.
        left: How many more calls the fault hits; None is any number.
        share: The share of matching calls that it hits, 0 to 1.
        key: The fingerprint of the only key that it hits, if any.
        account: The name of the only account that it hits, if any.
        model: The only model that it hits, if any.
        retry_after_s: The wait that the client is asked for, for kinds that ask for one.
        hang_s: How long the client waits in vain, for kinds that hang.
    """

    service: str
    kind: str
    status: int = 0
    ends_at_s: float = math.inf
    left: int | None = None
    share: float = 1.0
    key: str | None = None
    account: str | None = None
    model: str | None = None
    retry_after_s: float | None = None
    hang_s: float = 3_600.0
    number: int = field(default_factory=itertools.count(1).__next__)
    hits: int = 0


class Faults:
    """The faults in force; the oldest that matches a call wins.

    Args:
        rng: The source of the random numbers for `share`.
    """

    def __init__(self, rng: random.Random) -> None:
        self._active: list[Fault] = []
        self._rng = rng

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        self._active.append(fault)

    def clear(self, service: str | None = None, number: int | None = None) -> int:
        """End the faults of a service, the fault with a number, or all; returns how many ended."""
        before = len(self._active)
        self._active = [
            fault
            for fault in self._active
            if (service is not None and fault.service != service)
            or (number is not None and fault.number != number)
        ]
        return before - len(self._active)

    def active(self, now_s: float) -> Iterable[Fault]:
        """The faults in force."""
        self._active = [
            fault for fault in self._active if fault.ends_at_s > now_s and fault.left != 0
        ]
        return tuple(self._active)

    def pick(
        self, service: str, key: Key, model: str, now_s: float, *, breaking: bool = False
    ) -> Fault | None:
        """Return the fault that hits a call, if any, and count the hit.

        Args:
            service: The provider of the call.
            key: The key of the call.
            model: The model of the call; empty for Resend.
            now_s: The time of the call, in seconds since 1970.
            breaking: Look for a fault that breaks the answer to accepted work; otherwise for one
                that refuses the work.
        """
        if not self._active:
            return None
        for fault in self.active(now_s):
            if (
                fault.service == service
                and (fault.kind in ANSWER_FAULTS) is breaking
                and fault.key in {None, key.fingerprint}
                and fault.account in {None, key.account.name}
                and fault.model in {None, model}
                and (fault.share >= 1.0 or self._rng.random() < fault.share)
            ):
                fault.hits += 1
                if fault.left is not None:
                    fault.left -= 1
                return fault
        return None
