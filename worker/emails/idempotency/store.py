"""The store's verbs, each one script and one round trip."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from worker.emails.idempotency.names import Names
from worker.emails.idempotency.record import EmailIdentity, SendRecord, SendRequest, State
from worker.redis.autopipeline import pipeline_of
from worker.redis.lua import Clock, Script, keys_of, source

_HOUR_MS = 3_600_000
_READS = 3
_VERBS = ("get", "claim", "reclaim", "complete", "release", "mark_ambiguous", "delete")

Arg = str | int


class IdempotencyStore:
    """Keeps each email's exact call from before its first byte leaves until its outcome is known.

    Args:
        redis: A client that decodes responses to text. Not closed here.
        namespace: Keeps installations apart that share a Redis.
        call_ms: How long a call may take, in milliseconds; for so long nobody else sends the same
            email.
        keep_ms: How long a request or a result is kept, in milliseconds; above the 24 h of an
            idempotency key, and so long that jobs of a system that is off over a weekend find
            theirs.
        again_ms: How long a request may be sent again, in milliseconds; below those 24 h.
        now_ms: A clock for tests. Default: Redis' own.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        namespace: str = "kw",
        call_ms: int = 65_000,
        keep_ms: int = 73 * _HOUR_MS,
        again_ms: int = 23 * _HOUR_MS,
        now_ms: Clock | None = None,
    ) -> None:
        self.names = Names(namespace)
        self._call_ms = call_ms
        self._keep_ms = keep_ms
        self._again_ms = again_ms
        self._now_ms = now_ms
        pipeline = pipeline_of(redis)
        self._scripts = {verb: Script(pipeline, source(__package__, verb)) for verb in _VERBS}

    def _now(self) -> Arg:
        return self._now_ms() if self._now_ms else ""

    async def get(self, member: EmailIdentity) -> SendRecord:
        """Tell what is known of an email.

        Changes nothing; a second round trip where it went in a batch.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached; so with every verb.
        """
        name = member.name
        for _ in range(_READS):
            reply = await self._run(
                "get", [member.name], self._now(), member.content, self._again_ms
            )
            if reply[0] != "batch":
                break
            name = reply[1]
            reply = await self._run("get", [name], self._now(), "", self._again_ms)
            if reply[0] != "lost":  # else it may have been settled between the two looks
                break
        match reply:
            case ["sent", result]:
                return SendRecord(State.SENT, result=json.loads(result))
            case [state, left_ms, since_ms, account, key, body, members]:
                emails = (
                    tuple(EmailIdentity(*one) for one in json.loads(members))
                    if members
                    else (member,)
                )
                request = SendRequest(name, account, key, body, emails, since_ms)
                return SendRecord(State(state), request=request, left_ms=left_ms)
            case [state]:
                return SendRecord(State(state))
        raise AssertionError(f"get.lua answered {reply!r:.40}")

    async def claim(self, request: SendRequest, *, by: str) -> list[int]:
        """Keep a request, unless one of its emails is known already.

        Args:
            request: What will be sent.
            by: Who sends it; no two calls have the same.

        Returns:
            The places of the emails that are known; then nothing was kept and nothing may be sent.
        """
        return [int(place) for place in await self._write("claim", request, by=by)]

    async def reclaim(self, request: SendRequest) -> bool:
        """Take a request over to send it again as it is; False where that is not allowed.

        So it is while another job is doing so, once it is settled, and when Resend may have
        forgotten its key.
        """
        args = (self._now(), self._call_ms, request.since_ms, self._again_ms)
        return bool(await self._run("reclaim", [request.name], *args))

    async def complete(
        self, request: SendRequest, results: Sequence[dict[str, Any] | None]
    ) -> None:
        """Replace a request by its results, one for each email.

        None frees an email that was refused.
        """
        args: list[Arg] = [self._keep_ms]
        for member, result in zip(request.members, results, strict=True):
            args += [member.content, "" if result is None else json.dumps(result)]
        await self._run("complete", request.records, *args)

    async def release(self, request: SendRequest, *, by: str) -> bool:
        """Free the emails of a call that was surely not carried out.

        False where another attempt is in doubt.
        """
        return bool(await self._run("release", request.records, by))

    async def mark_ambiguous(self, request: SendRequest) -> None:
        """Keep a request whose call may have been carried out.

        Written anew if Redis has lost it.
        """
        await self._write("mark_ambiguous", request)

    async def delete(self, request: SendRequest) -> None:
        """Free the emails of a request although it may have been accepted.

        Does nothing if it has changed since.
        """
        await self._run("delete", request.records, request.since_ms)

    async def _write(self, verb: str, request: SendRequest, *, by: str = "") -> Any:
        members = (
            json.dumps([[one.name, one.content] for one in request.members])
            if request.is_batch
            else ""
        )
        return await self._run(
            verb,
            request.records,
            self._now(),
            self._keep_ms,
            self._call_ms,
            by,
            request.account,
            request.key,
            request.body,
            members,
            *(member.content for member in request.members),
        )

    async def _run(self, verb: str, keys: Sequence[str], *args: Arg) -> Any:
        return await self._scripts[verb](keys_of(keys), *args)


def batch_of(requests: Sequence[SendRequest], *, names: Names, number: str) -> SendRequest:
    """Put single emails of one account into one batch.

    Args:
        requests: The emails, as each would go alone.
        names: Where it is kept.
        number: Tells this batch from every other; its idempotency key is made of it.
    """
    return replace(
        requests[0],
        name=names.batch(number),
        key=f"batch-{number}",
        body="[" + ",".join(one.body for one in requests) + "]",
        members=tuple(one.members[0] for one in requests),
    )
