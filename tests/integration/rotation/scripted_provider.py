"""A scripted provider, its replies, and a rotation that calls it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis

from config.api_key import ApiKey, make_key
from worker.keypool import Lease, LeaseRequest
from worker.rotation.rotation import Rotation
from worker.rotation.served import Served
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Reply, Scope, Verdict

TAIL = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
SECRETS = [f"gsk_{name}{TAIL}" for name in ("abc123", "def456", "ghi789")]

OK = Reply(Verdict(Fate.DONE, "ok", status=200, tokens=7), {"text": "hello"})


def refused(cooldown_ms: int | None = 60_000, *, account: str | None = None) -> Reply:
    return Reply(
        Verdict(
            Fate.NEXT_KEY,
            "rate_limit",
            "the limit is reached",
            effect=Effect.COOL,
            scope=Scope.ACCOUNT_MODEL,
            cooldown_ms=cooldown_ms,
            account=account,
            status=429,
        )
    )


DEAD = Reply(
    Verdict(
        Fate.NEXT_KEY,
        "invalid_key",
        "not accepted",
        effect=Effect.DISABLE,
        scope=Scope.KEY,
        status=401,
    )
)
UNFIT = Reply(
    Verdict(
        Fate.NEXT_KEY,
        "model_blocked",
        "off",
        effect=Effect.DISABLE,
        scope=Scope.KEY_RESOURCE,
        status=403,
    )
)
FAULTY = Reply(
    Verdict(
        Fate.RETRY,
        "server_error",
        "it failed (HTTP 502)",
        effect=Effect.COOL,
        cooldown_ms=5_000,
        definite=False,
        backoff_ms=1_500,
        status=502,
    )
)
NOT_FOUND = Reply(
    Verdict(Fate.OTHER_ACCOUNT, "model_not_found", "there is no such model", status=404)
)
NOT_HAD = Reply(
    Verdict(
        Fate.OTHER_ACCOUNT, "model_not_found", "there is no such model", effect=Effect.UNFIT,
        scope=Scope.ACCOUNT_MODEL, cooldown_ms=3_600_000, status=404,
    )
)  # fmt: skip
NOT_ITS_DOMAIN = Reply(
    Verdict(
        Fate.OTHER_ACCOUNT, "domain_not_verified", "not verified", effect=Effect.DISABLE,
        scope=Scope.KEY_RESOURCE,
        status=403,
    )
)  # fmt: skip
AMBIGUOUS = Reply(
    Verdict(Fate.SAME_ACCOUNT, "read_timeout", "no answer came in time", definite=False)
)
INVALID = Reply(Verdict(Fate.FAIL, "rejected", "messages: must not be so", status=400))


def too_large(limit: int) -> Reply:
    return Reply(
        Verdict(
            Fate.OTHER_ACCOUNT,
            "request_too_large",
            "too many tokens",
            limits=(ObservedLimit(Dimension.TPM, limit),),
            too_large_limit=limit,
            status=413,
        )
    )


class ScriptedProvider:
    """Answers in the order of its script, then with `OK`; notes the key of each call."""

    service = "groq"

    def __init__(self, *script: Any) -> None:
        self.script = deque(script)
        self.seen: list[tuple[str, str]] = []
        self.called = asyncio.Event()
        self.released: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    @property
    def keys_used(self) -> list[str]:
        return [secret for secret, _ in self.seen]

    async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:  # noqa: ARG002
        self.seen.append((secret.get_secret_value(), request))
        self.called.set()
        step = self.script.popleft() if self.script else OK
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Reply):
            return step
        return await self.released  # "hang"

    def release(self, reply: Reply, *, after: Served) -> None:  # noqa: ARG002 - `after` is a call that has ended before
        """End the hanging call."""
        self.released.set_result(reply)

    async def close(self) -> None:
        """Do nothing, because nothing is open."""


def keys(count: int = 3, accounts: tuple[str, ...] = ()) -> list[ApiKey]:
    return [
        make_key(
            "groq",
            secret=secret,
            variable=f"GROQ_API_KEY_{n}",
            account=accounts[n] if accounts else None,
        )
        for n, secret in enumerate(SECRETS[:count])
    ]


Make = Callable[..., tuple[Rotation[str], ScriptedProvider]]


async def serve(
    rotation: Rotation[str], *, longest_s: float | None = None, **lease_request: Any
) -> Served:
    return await rotation.serve(
        LeaseRequest(**lease_request), lambda lease: f"for {lease.key.label}", longest_s=longest_s
    )


async def rest(rotation: Rotation[str], cooldown_ms: int) -> None:
    """Make the next key rest, as after a call of another process."""
    lease = await rotation.pool.acquire(LeaseRequest())
    assert isinstance(lease, Lease)
    await rotation.pool.settle(lease, refused(cooldown_ms).verdict)


async def leases_out(redis: Redis, service: str = "groq") -> tuple[int, int, list[str]]:
    in_flight = [
        name
        async for name in redis.scan_iter(f"{{kw:{service}}}:key:*")
        if await redis.hget(name, "in_flight") not in {None, "0"}
    ]
    return (
        await redis.zcard(f"{{kw:{service}}}:leases"),
        await redis.hlen(f"{{kw:{service}}}:leased"),
        in_flight,
    )


NOTHING_OUT = (0, 0, [])


def first_account() -> str:
    return keys()[0].id


class NotedCalls:
    """Hooks that note each call, and fail if the test scripts it."""

    def __init__(self, trouble: BaseException | None = None) -> None:
        self.trouble = trouble
        self.noted: list[str] = []

    async def before(self, lease: Lease) -> str:
        self.noted.append("before")
        if self.trouble is not None:
            raise self.trouble
        return f"for {lease.key.label}"

    async def after(self, lease: Lease, reply: Reply) -> None:
        self.noted.append(f"{lease.key.label[:7]} {reply.verdict.code}")

    def recipients(self, _: Reply) -> dict[str, int]:
        return {}


async def until(check: Callable[[], Any], *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not await check():  # noqa: ASYNC110 - what is awaited happens in Redis
            await asyncio.sleep(0.005)
