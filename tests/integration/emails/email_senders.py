"""Senders of emails on one Redis and one sandbox; each stands for a worker process."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from config.api_key import make_key
from sandbox.process import Sandbox
from worker.emails import EmailSender, OutgoingEmail
from worker.emails.idempotency import IdempotencyStore
from worker.keypool import CooldownPolicy, KeyPool, LeaseRequest
from worker.providers import Resend
from worker.rotation.rotation import Rotation
from worker.rotation.served import Served
from worker.usage import NO_USAGE, UsageCounter

CANARY = "canary-of-a-mail-body"
ANN = "ann@example.com"


class Senders:
    """Makes senders that share a Redis and a sandbox."""

    def __init__(self, sandbox: Sandbox, redis: Redis) -> None:
        self.sandbox = sandbox
        self.redis = redis
        self.providers: list[Resend] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for provider in self.providers:
            await provider.close()

    def make(
        self,
        *,
        senders: tuple[str, ...] = ("us@team1.example.net", "us@team2.example.net"),
        keys: tuple[int, ...] = (0, 1),
        timeout_s: float = 10,
        call_ms: int = 65_000,
        now_ms: Any = None,
        pool_now_ms: Any = None,
        usage: UsageCounter = NO_USAGE,
        **options: Any,
    ) -> EmailSender:
        secrets = self.sandbox.keys("resend")
        pool_keys = [
            make_key(
                "resend",
                secret=secrets[n],
                variable=f"RESEND_API_KEY_{n}",
                account=f"team{n}",
                sender=senders[n],
            )
            for n in keys
        ]
        provider = Resend(self.sandbox.resend_api_url, timeout_s=timeout_s)
        self.providers.append(provider)
        pool = KeyPool(
            self.redis, "resend", pool_keys, opening=16, now_ms=pool_now_ms,
            cooldowns=CooldownPolicy(server_error_ms=1),
        )  # fmt: skip
        return EmailSender(
            Rotation(pool, provider, usage=usage),
            IdempotencyStore(self.redis, call_ms=call_ms, now_ms=now_ms),
            **options,
        )

    def judgement(self) -> dict[str, Any]:
        judgement: dict[str, Any] = self.sandbox.ledger()["judgement"]
        return judgement

    def calls(self) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = self.sandbox.ledger(full=True)["calls"]
        return calls

    async def everything_in_redis(self) -> str:
        """Return all names and values in Redis, as text."""
        lines = []
        async for name in self.redis.scan_iter("*"):
            kind = await self.redis.type(name)
            value = (
                await self.redis.execute_command("HGETALL", name, NEVER_DECODE=True)
                if kind == "hash"
                else ""
            )  # type: ignore[no-untyped-call]
            lines.append(f"{name} {value}")
        return "\n".join(lines)


def outgoing(
    number: int | str,
    *,
    key: str = "",
    known: bool | None = None,
    unsendable: str = "",
    **changes: Any,
) -> OutgoingEmail:
    """An email as the task makes it; `key` is an idempotency key from the caller."""
    mail = {"to": [ANN], "subject": f"No. {number}", "text": f"{CANARY} {number}"} | changes
    content = hashlib.sha256(json.dumps(mail, sort_keys=True).encode()).hexdigest()
    return OutgoingEmail(
        key or f"job-{number}",
        content,
        lambda chosen: {"from": chosen.sender or ""} | mail,
        known=bool(key) if known is None else known,
        batchable="attachments" not in mail,
        unsendable=unsendable,
    )


def of_jobs(count: int) -> list[OutgoingEmail]:
    """The emails of the jobs `job-0` and so on, which may be cancelled."""
    emails = [outgoing(number) for number in range(count)]
    for email in emails:
        email.job = email.idempotency_key
    return emails


@asynccontextmanager
async def impatient_redis(url: str, **options: Any) -> AsyncIterator[Redis]:
    """Connect to a Redis that may be down, and try each command once."""
    connections = BlockingConnectionPool.from_url(
        url, decode_responses=True, retry=Retry(NoBackoff(), 0), **options
    )
    async with Redis.from_pool(connections) as redis:
        yield redis


def hold(sender: EmailSender) -> asyncio.Event:
    """Keep all keys from a sender's emails until the event is set."""
    free, pool = asyncio.Event(), sender.rotation.pool
    acquire = pool.acquire

    async def wait(*args: Any) -> Any:
        await free.wait()
        return await acquire(*args)

    pool.acquire = wait  # type: ignore[method-assign]
    return free


async def in_line(sender: EmailSender, count: int) -> None:
    """Wait until the queues of a sender hold this number of emails."""
    async with asyncio.timeout(30):
        queues = sender.shared.queues
        while sum(len(queue.waiters) for queue in queues.values()) != count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def send(
    sender: EmailSender, *emails: OutgoingEmail, longest_s: float = 20, **lease_request: Any
) -> list[Any]:
    """Send emails at once. Return the outcome of each: `Served`, or the exception."""
    request = LeaseRequest(emails=1, **lease_request)
    serving = (sender.serve(request, email, longest_s=longest_s) for email in emails)
    return await asyncio.gather(*serving, return_exceptions=True)


async def send_one(sender: EmailSender, email: OutgoingEmail, *, longest_s: float = 20) -> Served:
    """Send one email, or raise its exception."""
    return await sender.serve(LeaseRequest(emails=1), email, longest_s=longest_s)


def ids(outcomes: list[Any]) -> list[str]:
    """Return the ids that Resend gave; every email must have been sent."""
    assert [outcome for outcome in outcomes if not isinstance(outcome, Served)] == []
    return [outcome.value["id"] for outcome in outcomes]


def accepted(senders: Senders) -> tuple[int, int, int]:
    """Return how many emails were accepted, and how many of them twice by key and by content."""
    judgement = senders.judgement()
    return (
        judgement["emails_accepted"],
        judgement["emails_accepted_twice"],
        judgement["content_accepted_twice"],
    )


async def until(check: Any, *, within_s: float = 30.0) -> None:
    """Wait until the check is true, which depends on another process or sender."""
    async with asyncio.timeout(within_s):
        while not await asyncio.to_thread(check):  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.01)
