"""Stores dead letters in Redis, bounded by count, age and size, with one round trip a command."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

from redis.asyncio import Redis

from config.settings import Settings
from worker.aio.lua_source import source
from worker.cancellations import Cancellations
from worker.deadletters.dead_letter import KINDS, OTHER, OWNERS, DeadLetter, Message
from worker.redis.audit_stream import read_latest
from worker.redis.autopipeline import pipeline_of
from worker.redis.lookup import BatchedLookup
from worker.redis.lua import Clock, Script, keys_of

_MESSAGE_BYTES = 1_024_000
_PAGE = 200
_DELETED_AT_ONCE = 500
_AUDIT_LENGTH = 1_000
_CLAIM_S = 300
_VERBS = ("put", "counts", "page", "delete")
_RECORDS = ("index", "heads", "messages", "kept", "counts", "audit")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of the stored dead letters.

    Attributes:
        count: The most dead letters.
        keep_ms: How long a dead letter is kept, in milliseconds.
        total_bytes: The largest size of all messages together. Beyond it, the oldest dead letters
            lose their messages.
        message_bytes: The largest size of one message. Of a job with a larger message, only the
            dead letter is kept.
    """

    count: int = 10_000
    keep_ms: int = 7 * 86_400_000
    total_bytes: int = 256_000_000
    message_bytes: int = _MESSAGE_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Read the limits from the settings."""
        total_bytes = settings.dead_letters_mb * 1_000_000
        return cls(
            keep_ms=settings.dead_letters_keep_s * 1000,
            total_bytes=total_bytes,
            message_bytes=min(_MESSAGE_BYTES, total_bytes),
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects dead letters. Without any value it selects all of them.

    Attributes:
        service: Only dead letters of this service.
        task: Only dead letters of this task.
        kind: Only dead letters of this kind.
        before_ms: Only jobs that ended before this instant, in milliseconds since 1970.
        search: Only dead letters whose id, task, queue, reason, worker or calls contain this text,
            in upper or lower case.
    """

    service: str | None = None
    task: str | None = None
    kind: str | None = None
    before_ms: int | None = None
    search: str | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a dead letter fits all values but `before_ms`, which Redis compares."""
        return (
            self.service in {None, letter.service}
            and self.task in {None, letter.task}
            and self.kind in {None, letter.kind}
            and (self.search is None or self.search.lower() in letter.words.lower())
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """How many dead letters there are, by service and kind, and the bytes of their messages."""

    of: dict[tuple[str, str], int]
    bytes: int = 0

    @property
    def total(self) -> int:
        """The number of all dead letters."""
        return sum(self.of.values())

    def as_json(self) -> dict[str, Any]:
        """Return the counts in JSON types."""
        by_service: dict[str, dict[str, int]] = {}
        for (service, kind), count in self.of.items():
            by_service.setdefault(service, {})[kind] = count
        return {"total": self.total, "bytes": self.bytes, "by_service": by_service}


class DeadLetters:
    """Keeps, finds and deletes dead letters.

    Args:
        redis: A client that decodes responses to text. Not closed here.
        namespace: The prefix of every name in Redis.
        limits: The limits of the stored dead letters.
        now_ms: A clock for tests, in milliseconds. Default: the clock of Redis.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        namespace: str = "kw",
        limits: Limits | None = None,
        now_ms: Clock | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._now_ms = now_ms
        self._redis = redis
        self._pipeline = pipeline_of(redis)
        self._namespace = namespace
        self._keys = keys_of([self.name(record) for record in _RECORDS])
        self._scripts = {verb: Script(self._pipeline, source(__package__, verb)) for verb in _VERBS}
        self._lookup = BatchedLookup(self)

    @classmethod
    def of(cls, redis: Redis, settings: Settings) -> Self:
        """Make the store with the namespace and limits of the settings."""
        return cls(redis, namespace=settings.namespace, limits=Limits.of(settings))

    def name(self, *parts: str) -> str:
        """Return the name of a record; all records share one hash tag."""
        return ":".join((f"{{{self._namespace}:dead}}", *parts))

    async def put(self, letter: DeadLetter, message: str = "") -> None:
        """Keep a dead letter in place of an earlier one of the same job.

        If there are too many dead letters, the oldest are deleted.

        Args:
            letter: The dead letter. Redis sets its time by its own clock.
            message: The message for a replay (`Message.text`); empty if there is none.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or rejects the write.
        """
        await self._run("put", *self._bounds(), letter.id, letter.head(), message)

    async def counts(self) -> Counts:
        """Count the dead letters.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        reply = await self._run("counts", *self._bounds())
        by_label = {reply[i]: int(reply[i + 1]) for i in range(0, len(reply), 2)}
        counts = {}
        for service in OWNERS:
            for kind in KINDS:
                if (count := by_label.get(f"{service}|{kind}", 0)) > 0:
                    counts[service, kind] = count
        return Counts(counts, max(0, by_label.get("bytes", 0)))

    async def find(self, which: Filter | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Find dead letters, the latest first.

        Args:
            which: The filter; default: all dead letters.
            limit: The most dead letters to return.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        found: list[DeadLetter] = []
        async for letter in self._all(which or Filter(), page=min(_PAGE, max(limit, 20))):
            if len(found) >= limit:
                break
            found.append(letter)
        return found

    async def _all(self, which: Filter, *, page: int) -> AsyncIterator[DeadLetter]:
        """Iterate over the dead letters that a filter selects.

        Pages go by position. If a dead letter is deleted meanwhile, its neighbour may be skipped.
        """
        skipped, before = 0, "inf" if which.before_ms is None else str(which.before_ms)
        while True:
            reply = await self._run("page", *self._bounds(), before, skipped, page)
            for i in range(0, len(reply), 4):
                job_id, at_ms, head, size = reply[i : i + 4]
                letter = DeadLetter.of(job_id, _ms_of(at_ms), head, int(size))
                if which.matches(letter):
                    yield letter
            skipped += page
            if len(reply) < 4 * page:
                return

    async def get(self, letter_id: str) -> tuple[DeadLetter, Message | None]:
        """Return one dead letter with its message, if that is kept.

        Raises:
            KeyError: This job has no dead letter.
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zscore(self.name("index"), letter_id)
            pipe.hget(self.name("heads"), letter_id)
            pipe.hget(self.name("messages"), letter_id)
            score, head, text = await pipe.execute()
        if score is None:
            raise KeyError(letter_id)
        letter = DeadLetter.of(
            letter_id, _ms_of(score), head or "", len(text.encode()) if text else 0
        )
        return letter, Message.of(text) if text else None

    async def has(self, job_id: str) -> bool:
        """Whether a job has a dead letter. Callers that ask at the same time share a round trip.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        return await self._lookup.has(job_id)

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Return which of these jobs have a dead letter.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        heads = await self._pipeline.send("HMGET", self.name("heads"), *ids)
        return {letter_id for letter_id, head in zip(ids, heads, strict=True) if head is not None}

    async def delete(
        self, letters: Sequence[DeadLetter], *, by: str, event: str = "dropped"
    ) -> int:
        """Delete dead letters, except those whose job has failed again since they were read.

        Args:
            letters: The dead letters.
            by: The actor for the audit stream, such as `cli ann`.
            event: The event in the audit stream; empty for no entry.

        Returns:
            How many were deleted.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        deleted = 0
        for service in OWNERS:
            of_service = [letter for letter in letters if letter.service == service]
            for first in range(0, len(of_service), _DELETED_AT_ONCE):
                pairs: list[Any] = []
                for letter in of_service[first : first + _DELETED_AT_ONCE]:
                    pairs += [letter.id, letter.at_ms]
                deleted += int(
                    await self._run(
                        "delete", self._now(), event, service, by, _AUDIT_LENGTH, *pairs
                    )
                )
        return deleted

    async def claim(self, letter: DeadLetter) -> bool:
        """Claim a dead letter for a replay, for five minutes; False if another replay has it."""
        name = self.name("claim", f"{letter.id}:{letter.at_ms}")
        return bool(await self._redis.set(name, "1", nx=True, ex=_CLAIM_S))

    async def uncancel(self, letter: DeadLetter) -> None:
        """Delete a cancel that came after the job had failed, because the job is to run again."""
        await Cancellations(self._redis, namespace=self._namespace).forget(letter.id)

    async def unclaim(self, letter: DeadLetter) -> None:
        """Release a claim."""
        await self._redis.delete(self.name("claim", f"{letter.id}:{letter.at_ms}"))

    async def audit(self, *, count: int, before_ms: int | None = None) -> list[dict[str, str]]:
        """List the replays and drops, the latest first, in the form of the key pool's audit."""
        entries = await read_latest(
            self._redis, self.name("audit"), count=count, before_ms=before_ms
        )
        return [{"service": OTHER, **fields} for _, fields in entries]

    def _bounds(self) -> list[Any]:
        limits = self.limits
        return [self._now(), limits.count, limits.keep_ms, limits.total_bytes]

    def _now(self) -> int | str:
        return self._now_ms() if self._now_ms else ""

    async def _run(self, verb: str, *args: Any) -> Any:
        return await self._scripts[verb](self._keys, *args)


def _ms_of(score: Any) -> int:
    """Return the instant of a score; 0 for an infinite one, which another program wrote."""
    number = float(score)
    return int(number) if isfinite(number) else 0
