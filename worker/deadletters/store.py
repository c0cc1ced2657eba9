"""The dead letters in Redis: bounded by count, age and size, each verb one round trip."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

from redis.asyncio import Redis

from config.settings import Settings
from worker.cancellations import Cancellations
from worker.deadletters.dead_letter import KINDS, SERVICES, DeadLetter, Message
from worker.redis.autopipeline import pipeline_of

_PAGE = 200
_FORGET = 500
_AUDIT_LENGTH = 1_000
_CLAIM_S = 300
_RECORDS = ("index", "heads", "messages", "kept", "counts", "audit")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept.

    Attributes:
        letters: Letters at most; 0: none are kept.
        keep_ms: How long, in milliseconds.
        total_bytes: The size of all messages together; beyond it the oldest letters lose theirs.
        message_bytes: The size of one message; a larger one is not kept, its letter is.
    """

    letters: int = 10_000
    keep_ms: int = 7 * 86_400_000
    total_bytes: int = 256_000_000
    message_bytes: int = 1_024_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say."""
        return cls(
            letters=settings.dead_letters,
            keep_ms=settings.dead_letters_keep_s * 1000,
            total_bytes=settings.dead_letters_mb * 1_000_000,
            message_bytes=settings.dead_letter_kb * 1_000,
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant; nothing means all.

    Attributes:
        service: Of this service.
        task: Of this task.
        kind: Of this kind.
        before_ms: That ended before this instant, in milliseconds since 1970.
    """

    service: str | None = None
    task: str | None = None
    kind: str | None = None
    before_ms: int | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        return (
            self.service in {None, letter.service}
            and self.task in {None, letter.task}
            and self.kind in {None, letter.kind}
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """How many letters there are, by service and kind, and the bytes of their messages."""

    of: dict[tuple[str, str], int]
    bytes: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.of.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        by_service: dict[str, dict[str, int]] = {}
        for (service, kind), count in self.of.items():
            by_service.setdefault(service, {})[kind] = count
        return {"total": self.total, "bytes": self.bytes, "by_service": by_service}


class DeadLetters:
    """Keeps, finds and forgets letters.

    Args:
        redis: A client that decodes responses to text. Not closed here.
        namespace: What stands before every name in Redis.
        limits: How much is kept.
        now_ms: A clock for tests, in milliseconds. Default: Redis' own.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        namespace: str = "kw",
        limits: Limits | None = None,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._now_ms = now_ms
        self._redis = redis
        self._wire = pipeline_of(redis)
        self._namespace = namespace
        self._keys = [self.name(record) for record in _RECORDS]
        self._scripts = {
            verb: redis.register_script(_source(verb))
            for verb in ("put", "counts", "page", "forget")
        }

    @classmethod
    def of(cls, redis: Redis, settings: Settings) -> Self:
        """As the settings say."""
        return cls(redis, namespace=settings.namespace, limits=Limits.of(settings))

    def name(self, *parts: str) -> str:
        """The name of a record; all share one hash tag."""
        return ":".join((f"{{{self._namespace}:dead}}", *parts))

    async def put(self, letter: DeadLetter, message: str = "") -> None:
        """Keep a letter in place of an earlier one of the same job; the oldest give way.

        Args:
            letter: What is shown. Its time is Redis' clock.
            message: What a replay needs (`Message.text`); empty where there is none.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses.
        """
        if self.limits.letters:
            await self._run("put", [*self._bounds(), letter.id, letter.head(), message])

    async def counts(self) -> Counts:
        """How many there are now.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        raw = await self._run("counts", self._bounds())
        told = {raw[place]: int(raw[place + 1]) for place in range(0, len(raw), 2)}
        found = {}
        for service in SERVICES:
            for kind in KINDS:
                if (count := told.get(f"{service}|{kind}", 0)) > 0:
                    found[service, kind] = count
        return Counts(found, max(0, told.get("bytes", 0)))

    async def find(self, which: Filter | None = None, *, limit: int = 100) -> list[DeadLetter]:
        """Letters that are meant, the latest first.

        Args:
            which: Which; default all.
            limit: How many at most.

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
        """Every letter that is meant.

        By place, so one that leaves meanwhile may hide its neighbour.
        """
        passed, before = 0, "inf" if which.before_ms is None else str(which.before_ms)
        while True:
            raw = await self._run("page", [*self._bounds(), before, passed, page])
            for place in range(0, len(raw), 4):
                letter = DeadLetter.of(
                    raw[place], int(float(raw[place + 1])), raw[place + 2], int(raw[place + 3])
                )
                if which.takes(letter):
                    yield letter
            passed += page
            if len(raw) < 4 * page:
                return

    async def get(self, letter_id: str) -> tuple[DeadLetter, Message | None]:
        """One letter with its message, if that was kept.

        Raises:
            KeyError: There is no such letter.
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.zscore(self.name("index"), letter_id)
            pipe.hget(self.name("heads"), letter_id)
            pipe.hget(self.name("messages"), letter_id)
            score, head, text = await pipe.execute()
        if score is None or head is None:
            raise KeyError(letter_id)
        letter = DeadLetter.of(letter_id, int(score), head, len(text.encode()) if text else 0)
        return letter, Message.of(text) if text else None

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Those of these jobs that have a letter.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        heads = await self._wire.send("HMGET", self.name("heads"), *ids)
        return {one for one, head in zip(ids, heads, strict=True) if head is not None}

    async def forget(
        self, letters: Sequence[DeadLetter], *, by: str, event: str = "dropped"
    ) -> int:
        """Take letters out, unless their job died again since they were read.

        The audit stream tells who did.

        Args:
            letters: Which.
            by: Who asks.
            event: What the audit stream calls it; empty for no entry.

        Returns:
            How many were still there.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        gone = 0
        for service in SERVICES:
            theirs = [letter for letter in letters if letter.service == service]
            for first in range(0, len(theirs), _FORGET):
                pairs: list[Any] = []
                for letter in theirs[first : first + _FORGET]:
                    pairs += [letter.id, letter.at_ms]
                gone += int(
                    await self._run(
                        "forget", [self._now(), event, service, by, _AUDIT_LENGTH, *pairs]
                    )
                )
        return gone

    async def claim(self, letter: DeadLetter) -> bool:
        """Take the right to replay a letter, for five minutes; False where somebody else has it."""
        name = self.name("claim", f"{letter.id}:{letter.at_ms}")
        return bool(await self._redis.set(name, "1", nx=True, ex=_CLAIM_S))

    async def uncancel(self, letter: DeadLetter) -> None:
        """Lift a cancel that came after the job had failed: a person wants it run again."""
        await Cancellations(self._redis, namespace=self._namespace).forget(letter.id)

    async def unclaim(self, letter: DeadLetter) -> None:
        """Give that right back."""
        await self._redis.delete(self.name("claim", f"{letter.id}:{letter.at_ms}"))

    async def audit(
        self, *, count: int = 100, before_ms: int | None = None
    ) -> list[dict[str, str]]:
        """Who replayed and dropped what, the latest first, in the form of the key pool's audit."""
        latest = "+" if before_ms is None else str(before_ms - 1)
        entries: Any = await self._redis.xrevrange(self.name("audit"), max=latest, count=count)
        return [dict(fields) for _, fields in entries]

    def _bounds(self) -> list[Any]:
        limits = self.limits
        return [self._now(), limits.letters, limits.keep_ms, limits.total_bytes]

    def _now(self) -> int | str:
        return self._now_ms() if self._now_ms else ""

    async def _run(self, verb: str, args: Sequence[Any]) -> Any:
        return await self._scripts[verb](keys=self._keys, args=args)


def _source(verb: str) -> str:
    folder = resources.files("worker.deadletters") / "lua"
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in ("prelude", verb))
