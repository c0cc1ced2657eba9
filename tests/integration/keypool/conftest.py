import hashlib
from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis

from config.api_key import ApiKey
from worker.keypool import CooldownPolicy, KeyPool

# If a rule of the state machine fails, pytest shows the values, as in a test file.
pytest.register_assert_rewrite(
    *(f"tests.integration.keypool.{name}" for name in ("modelled_pool", "settlement_rules"))
)


class ManualClock:
    """Redis' time, set by hand."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms

    def tick(self, ms: int) -> None:
        self.ms += ms


def make_key(number: int, *, account: str | None = None, service: str = "groq") -> ApiKey:
    secret = f"gsk_{number:03d}abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLM"
    return ApiKey(
        service=service,
        id=hashlib.sha256(secret.encode()).hexdigest()[:12],
        label=secret[:10] + "...",
        secret=SecretStr(secret),
        variable=f"GROQ_API_KEY_{number}",
        account=account,
        sender=None,
    )


@pytest.fixture
def new_clock() -> type[ManualClock]:
    return ManualClock


@pytest.fixture
def new_key() -> Callable[..., ApiKey]:
    return make_key


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(
        redis_url, decode_responses=True, max_connections=16
    )
    async with Redis.from_pool(connections) as client:
        yield client


Make = Callable[..., KeyPool]


@pytest.fixture
def make_pool(redis: Redis, clock: ManualClock) -> Make:
    def make(count: int = 3, *, accounts: list[str] | None = None, **options: object) -> KeyPool:
        keys = [make_key(n, account=accounts[n] if accounts else None) for n in range(count)]
        defaults = {"now_ms": clock, "cooldowns": CooldownPolicy(limit_ms=60_000), "opening": 1000}
        return KeyPool(redis, "groq", keys, **(defaults | options))  # type: ignore[arg-type]

    return make
