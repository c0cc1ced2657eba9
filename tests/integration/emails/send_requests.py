"""Send requests as an idempotency store keeps them, and a clock for it."""

from collections.abc import Callable

import pytest

from worker.emails.idempotency import RecordNames
from worker.providers import EmailIdentity, SendRequest

HOUR_MS = 3_600_000
NAMES = RecordNames("kw")


class Clock:
    def __init__(self) -> None:
        self.ms = 1_764_000_000_000

    def __call__(self) -> int:
        return self.ms


def identity(number: int, content: str = "hash") -> EmailIdentity:
    return EmailIdentity(NAMES.mail(f"job-{number}"), content)


def single(number: int, content: str = "hash") -> SendRequest:
    email = identity(number, content)
    return SendRequest("team1", f"job-{number}", f'{{"subject":"No. {number}"}}', (email,))


def own_record(request: SendRequest) -> str:
    return NAMES.of(request)[0]


def batch(*numbers: int) -> SendRequest:
    return SendRequest.batch([single(number) for number in numbers], number="abc")


REQUESTS = pytest.mark.parametrize(
    "make", [lambda: single(1), lambda: batch(1, 2, 3)], ids=["single", "batch"]
)
Make = Callable[[], SendRequest]
