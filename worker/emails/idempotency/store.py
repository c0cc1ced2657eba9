"""Keeps requests and results in Redis. Each operation is one script, mostly one round trip."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from worker.aio.lua_source import source
from worker.emails.idempotency.record import RecordNames, SendRecord, State
from worker.foreign_json import as_list, as_object, read_json
from worker.jobs.ownership import NO_MESSAGES, Ownership
from worker.providers import EmailIdentity, SendRequest
from worker.redis.autopipeline import pipeline_of
from worker.redis.lua import Clock, Script, keys_of

_HOUR_MS = 3_600_000
_MOST_READS = 3
_WRONG_TYPE_RE: Final = re.compile("WRONGTYPE|attempt to ")
"""Matches the errors of Redis or Lua for a record that another program has changed."""
_VERBS = ("get", "claim", "reclaim", "complete", "release", "mark_ambiguous", "delete")

Arg = str | int


class IdempotencyStore:
    """Keeps each request to Resend from before its first byte leaves until its outcome is known.

    Every method raises `redis.exceptions.RedisError` if Redis cannot be reached.

    Args:
        redis: A client that decodes responses to text. Its owner closes it.
        namespace: The prefix of all names, which separates installations that share a Redis.
        call_ms: How long a call may take, in milliseconds. During this time no other job sends the
            same email, unless the sending job has lost its message.
        keep_ms: How long a request or a result is kept, in milliseconds. This is longer than the
            24 h for which Resend keeps an idempotency key, so that jobs find their records even if
            the system was off over a weekend.
        again_ms: How long a request may be sent again, in milliseconds. This is shorter than those
            24 h.
        ownership: Knows the message of the running job, and whether another job has lost its own.
        now_ms: A clock for tests. Default: Redis' clock.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        namespace: str = "kw",
        call_ms: int = 65_000,
        keep_ms: int = 73 * _HOUR_MS,
        again_ms: int = 23 * _HOUR_MS,
        ownership: Ownership = NO_MESSAGES,
        now_ms: Clock | None = None,
    ) -> None:
        self.names = RecordNames(namespace)
        self._call_ms = call_ms
        self._keep_ms = keep_ms
        self._again_ms = again_ms
        self._ownership = ownership
        self._now_ms = now_ms
        pipeline = pipeline_of(redis)
        self._scripts = {verb: Script(pipeline, source(__package__, verb)) for verb in _VERBS}

    def identity_of(self, idempotency_key: str, content_hash: str) -> EmailIdentity:
        """Identify an email by its idempotency key and its content."""
        return EmailIdentity(self.names.mail(idempotency_key), content_hash)

    async def get(self, email: EmailIdentity) -> SendRecord:
        """Read the record of an email, and change nothing.

        If the email is in a batch whose outcome is open, this takes a second round trip.
        """
        try:
            reply = await self._read(email)
        except ResponseError as exc:
            if not _WRONG_TYPE_RE.search(str(exc)):
                raise
            return SendRecord(State.UNREADABLE)
        match reply:
            case ["sent", text]:
                return _sent(text)
            case [_, _, _, _, _, _, _, holder]:
                record = _with_request(reply, email)
                if record.state == State.BUSY and holder and await self._ownership.is_lost(holder):
                    # The worker of that job died or hangs. If it still sends, it sends the same
                    # bytes.
                    return replace(record, state=State.OPEN, left_ms=0, lost_by=holder)
                return record
            case [state]:
                return SendRecord(State(state))
        return SendRecord(State.UNREADABLE)

    async def _read(self, email: EmailIdentity) -> Any:
        """Read the record of an email, or of the batch that contains it."""
        for _ in range(_MOST_READS):
            name = email.record
            reply = await self._run("get", [name], self._now(), email.content_hash, self._again_ms)
            if reply[0] != "batch":
                break
            reply = await self._run("get", [reply[1]], self._now(), "", self._again_ms)
            if reply[0] != "lost":  # a lost batch may have been completed meanwhile
                break
        return reply

    async def claim(self, request: SendRequest, *, by: str) -> list[int]:
        """Store a request that is about to be sent, unless one of its emails has a record already.

        Args:
            request: The request.
            by: A unique name for the call that sends it.

        Returns:
            The indices of the emails that have a record. If there are any, nothing was stored, and
            the request must not be sent.
        """
        return [int(index) for index in await self._write("claim", request, by=by)]

    async def reclaim(self, record: SendRecord) -> bool:
        """Take over a request, to send it again unchanged.

        Returns:
            False if that is not allowed: another job is sending the request, its outcome is known
            by now, or Resend may have forgotten its idempotency key.
        """
        [name, *_] = _names(self.names, record)
        args = (self._now(), self._call_ms, record.since_ms, self._again_ms, record.lost_by)
        return bool(await self._run("reclaim", [name], *args, self._ownership.message))

    async def complete(
        self, request: SendRequest, results: Sequence[dict[str, Any] | None]
    ) -> None:
        """Replace a request by its results.

        Args:
            request: The request that was sent.
            results: The result of each email. None frees an email that was refused.
        """
        args: list[Arg] = [self._keep_ms]
        for email, result in zip(request.emails, results, strict=True):
            args += [email.content_hash, "" if result is None else json.dumps(result)]
        await self._run("complete", self.names.of(request), *args)

    async def release(self, request: SendRequest, *, by: str) -> bool:
        """Free the emails of a call that was certainly not carried out.

        Returns:
            False if another attempt may have been accepted. The emails are then not free.
        """
        return bool(await self._run("release", self.names.of(request), by))

    async def mark_ambiguous(self, request: SendRequest) -> None:
        """Keep a request whose call may have been carried out. Store it again if Redis lost it."""
        await self._write("mark_ambiguous", request)

    async def delete(self, record: SendRecord) -> None:
        """Free the emails of a request although it may have been accepted.

        If the record has changed since it was read, nothing happens.
        """
        await self._run("delete", _names(self.names, record), record.since_ms)

    def _now(self) -> Arg:
        return self._now_ms() if self._now_ms else ""

    async def _write(self, verb: str, request: SendRequest, *, by: str = "") -> Any:
        members = [[email.record, email.content_hash] for email in request.emails]
        return await self._run(
            verb,
            self.names.of(request),
            self._now(),
            self._keep_ms,
            self._call_ms,
            by,
            request.account,
            request.idempotency_key,
            request.body,
            json.dumps(members) if request.is_batch else "",
            self._ownership.message,
            *(email.content_hash for email in request.emails),
        )

    async def _run(self, verb: str, keys: Sequence[str], *args: Arg) -> Any:
        return await self._scripts[verb](keys_of(keys), *args)


def _sent(text: str) -> SendRecord:
    """Read the result of an email that was accepted."""
    result = as_object(read_json(text))
    is_known = isinstance(result.get("id"), str)
    return SendRecord(State.SENT, result=result) if is_known else SendRecord(State.UNREADABLE)


def _with_request(reply: Any, email: EmailIdentity) -> SendRecord:
    """Read a request whose outcome is open."""
    match reply:
        case [state, int(left_ms), int(since_ms), str(account), str(key), str(body), members, _]:
            emails = _emails_of(members) if members else (email,)
            if email in emails and type(read_json(body)) is (list if members else dict):
                request = SendRequest(account, key, body, emails)
                return SendRecord(State(state), request, since_ms, left_ms=left_ms)
    return SendRecord(State.UNREADABLE)


def _emails_of(text: str) -> tuple[EmailIdentity, ...]:
    """Read the emails of a batch; none if another program has changed the text."""
    identities = as_list(read_json(text))
    if not all(
        isinstance(identity, list) and [*map(type, identity)] == [str, str]
        for identity in identities
    ):
        return ()
    return tuple(EmailIdentity(*identity) for identity in identities)


def _names(names: RecordNames, record: SendRecord) -> list[str]:
    if record.request is None:
        raise ValueError(f"a record in the state {record.state} holds no request")
    return names.of(record.request)
