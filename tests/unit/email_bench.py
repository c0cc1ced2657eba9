"""Runs the job of an email with a scripted store and scripted calls."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from worker.emails.idempotency import RecordNames, SendRecord, State
from worker.emails.outgoing import OutgoingEmail
from worker.emails.run import EmailRun, SharedState
from worker.keypool import LeaseRequest
from worker.providers import EmailIdentity, SendRequest
from worker.rotation.served import Served

NAMES = RecordNames("kw")
SERVED = Served({"id": "1"}, "k", 1, 70)
SENT = SendRequest("team", "1", "{}", (EmailIdentity(NAMES.mail("1"), "hash"),))
REQUEST = LeaseRequest(resource="example.com", emails=2, exclude=frozenset({"key"}))


class Store:
    """A store with scripted answers; the last answer is repeated."""

    names = NAMES

    def __init__(self, *records: SendRecord | Exception) -> None:
        self.records, self.looks, self.deleted = list(records), 0, list[SendRecord]()

    def identity_of(self, key: str, content: str) -> EmailIdentity:
        return EmailIdentity(self.names.mail(key), content)

    async def get(self, _: EmailIdentity) -> SendRecord:
        self.looks += 1
        record = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        if isinstance(record, Exception):
            raise record
        return record

    async def delete(self, record: SendRecord) -> None:
        self.deleted.append(record)


class Rotation:
    """Calls with scripted ends, one after the other."""

    def __init__(self, *ends: Any) -> None:
        self.ends, self.requests = list(ends), list[tuple[LeaseRequest, float | None]]()
        self.pool = SimpleNamespace(service="resend")

    async def run(self, request: LeaseRequest, attempt: Any, *, longest_s: float | None) -> Served:
        self.requests.append((request, longest_s))
        for _ in range(20):  # turns of the event loop, in which other tasks continue
            await asyncio.sleep(0)
        end = self.ends.pop(0)
        if callable(end):
            end = end(attempt)
        if isinstance(end, BaseException):
            raise end
        served: Served = end
        return served


def shared(*ends: Any, store: Store | None = None, at_least_once: bool = False) -> SharedState:
    known = store or Store(SendRecord(State.FREE))
    return SharedState(cast("Any", Rotation(*ends)), cast("Any", known), at_least_once)


def run_of(state: SharedState, key: str = "1", **email: Any) -> EmailRun:
    return EmailRun(state, REQUEST, OutgoingEmail(key, "hash", lambda _: {}, **email))
