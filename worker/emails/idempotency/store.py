"""The outbox's verbs, each one script and one round trip."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from typing import Any, Protocol

from redis.asyncio import Redis

from worker.emails.idempotency.names import Names
from worker.emails.idempotency.record import Envelope, Found, Member, State
from worker.keypool.scripts import Script, keys_of
from worker.redis.autopipeline import pipeline_of

_HOUR_MS = 3_600_000
_LOOKS = 3
_VERBS = ("look", "seal", "resume", "accept", "release", "doubt", "forget")

Arg = str | int


class Clock(Protocol):
    """A clock for tests: whole milliseconds."""

    def __call__(self) -> int:
        """Now."""
        ...


def source(verb: str) -> str:
    """The whole text of one verb's script, as Redis runs it."""
    folder = resources.files("worker.emails.idempotency") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in ("prelude", verb))


class Outbox:
    """Keeps each email's exact call from before its first byte leaves until its outcome is known.

    Args:
        redis: A client that decodes responses to text. Not closed here.
        namespace: Keeps installations apart that share a Redis.
        call_ms: How long a call may take, in milliseconds; for so long nobody else sends the same
            email.
        keep_ms: How long an envelope or a result is kept, in milliseconds; above the 24 h of an
            idempotency key, and so long that jobs of a system that is off over a weekend find
            theirs.
        again_ms: How long an envelope may be sent again, in milliseconds; below those 24 h.
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
        wire = pipeline_of(redis)
        self._scripts = {verb: Script(wire, source(verb)) for verb in _VERBS}

    def _now(self) -> Arg:
        return self._now_ms() if self._now_ms else ""

    async def look(self, member: Member) -> Found:
        """Tell what is known of an email.

        Changes nothing; a second round trip where it went in a batch.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached; so with every verb.
        """
        name = member.name
        for _ in range(_LOOKS):
            reply = await self._run(
                "look", [member.name], self._now(), member.content, self._again_ms
            )
            if reply[0] != "batch":
                break
            name = reply[1]
            reply = await self._run("look", [name], self._now(), "", self._again_ms)
            if reply[0] != "lost":  # else it may have been settled between the two looks
                break
        match reply:
            case ["sent", result]:
                return Found(State.SENT, result=json.loads(result))
            case [state, left_ms, since_ms, account, key, body, members]:
                emails = (
                    tuple(Member(*one) for one in json.loads(members)) if members else (member,)
                )
                envelope = Envelope(name, account, key, body, emails, since_ms)
                return Found(State(state), envelope=envelope, left_ms=left_ms)
            case [state]:
                return Found(State(state))
        raise AssertionError(f"look.lua answered {reply!r:.40}")

    async def seal(self, envelope: Envelope, *, by: str) -> list[int]:
        """Keep an envelope, unless one of its emails is known already.

        Args:
            envelope: What will be sent.
            by: Who sends it; no two calls have the same.

        Returns:
            The places of the emails that are known; then nothing was kept and nothing may be sent.
        """
        return [int(place) for place in await self._write("seal", envelope, by=by)]

    async def resume(self, envelope: Envelope) -> bool:
        """Take an envelope over to send it again as it is; False where that is not allowed.

        So it is while another job is doing so, once it is settled, and when Resend may have
        forgotten its key.
        """
        args = (self._now(), self._call_ms, envelope.since_ms, self._again_ms)
        return bool(await self._run("resume", [envelope.name], *args))

    async def accept(self, envelope: Envelope, results: Sequence[dict[str, Any] | None]) -> None:
        """Replace an envelope by its results, one for each email.

        None frees an email that was refused.
        """
        args: list[Arg] = [self._keep_ms]
        for member, result in zip(envelope.members, results, strict=True):
            args += [member.content, "" if result is None else json.dumps(result)]
        await self._run("accept", envelope.records, *args)

    async def release(self, envelope: Envelope, *, by: str) -> bool:
        """Free the emails of a call that was surely not carried out.

        False where another attempt is in doubt.
        """
        return bool(await self._run("release", envelope.records, by))

    async def doubt(self, envelope: Envelope) -> None:
        """Keep an envelope whose call may have been carried out.

        Written anew if Redis has lost it.
        """
        await self._write("doubt", envelope)

    async def forget(self, envelope: Envelope) -> None:
        """Free the emails of an envelope although it may have been accepted.

        Does nothing if it has changed since.
        """
        await self._run("forget", envelope.records, envelope.since_ms)

    async def _write(self, verb: str, envelope: Envelope, *, by: str = "") -> Any:
        members = (
            json.dumps([[one.name, one.content] for one in envelope.members])
            if envelope.is_batch
            else ""
        )
        return await self._run(
            verb,
            envelope.records,
            self._now(),
            self._keep_ms,
            self._call_ms,
            by,
            envelope.account,
            envelope.key,
            envelope.body,
            members,
            *(member.content for member in envelope.members),
        )

    async def _run(self, verb: str, keys: Sequence[str], *args: Arg) -> Any:
        return await self._scripts[verb](keys_of(keys), *args)


def batch_of(envelopes: Sequence[Envelope], *, names: Names, number: str) -> Envelope:
    """Put single emails of one account into one batch.

    Args:
        envelopes: The emails, as each would go alone.
        names: Where it is kept.
        number: Tells this batch from every other; its idempotency key is made of it.
    """
    return replace(
        envelopes[0],
        name=names.batch(number),
        key=f"batch-{number}",
        body="[" + ",".join(one.body for one in envelopes) + "]",
        members=tuple(one.members[0] for one in envelopes),
    )
