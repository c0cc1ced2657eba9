"""Our Flower in this process, for the tests of this folder."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from jsonschema import Draft202012Validator
from redis.asyncio import Redis

from config.api_key import ApiKey
from worker.dashboard import KeysFlower
from worker.keypool import Lease, LeaseRequest
from worker.verdicts import Effect, Fate, Verdict

LOGIN = ("ada", "canary-password-5571")
TOKEN = "canary-token-0c1d2e3f4a5b6c7d8e9f"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PREFIX = "/api/admin/api-keys"

# Every test process reads it. The loader in C, which a new Python may lack, takes a tenth of the
# time.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
OPENAPI = yaml.load((Path(__file__).parents[3] / "docs" / "openapi.yaml").read_text(), _LOADER)  # noqa: S506
_ADDRESSES = {
    re.compile(path.replace("{job}", "[^/]+")): its for path, its in OPENAPI["paths"].items()
}


def described(answer: httpx.Response) -> Any:
    """Check a response of an endpoint against `docs/openapi.yaml`, and return its JSON."""
    path = "/api/admin/" + answer.request.url.path.partition("/api/admin/")[2]
    operations = next((its for address, its in _ADDRESSES.items() if address.fullmatch(path)), None)
    operation = (operations or {}).get(answer.request.method.lower())
    if operation is None:  # another address, or another method
        request = f"{answer.request.method} {path}"
        assert not answer.is_success, f"docs/openapi.yaml does not describe {request}"
        assert answer.status_code in {404, 405} or operations is None, (
            answer.request,
            answer.status_code,
        )
        description: Any = {"$ref": "#/components/responses/BadRequest"}
    elif answer.status_code == 500:
        description = {
            "$ref": "#/components/responses/BadRequest"
        }  # an error in our code, which the description does not have
    else:
        description = operation["responses"][str(answer.status_code)]
    if "$ref" in description:
        description = OPENAPI["components"]["responses"][description["$ref"].rpartition("/")[2]]
    kind, _, _ = answer.headers["Content-Type"].partition(";")
    if kind == "text/csv":
        assert kind in description["content"]
        return answer.text
    schema = description["content"][kind]["schema"] | {"components": OPENAPI["components"]}
    Draft202012Validator(schema).validate(answer.json())
    return answer.json()


async def check_description(answer: httpx.Response) -> None:
    """Check every response of an endpoint that a test gets against the endpoint's description."""
    endless = answer.headers.get("Content-Type", "").startswith("text/event-stream")
    if (
        "/api/admin/" in answer.request.url.path
        and answer.request.method in {"GET", "POST"}
        and not endless
    ):
        await answer.aread()
        described(answer)


def secret(service: str, number: int) -> str:
    start = {"groq": "gsk_", "resend": "re_"}[service]
    return f"{start}{number:03d}canary{'0' * 40}"


async def until(
    look: Callable[[], Awaitable[Any]], good: Callable[[Any], bool], *, within_s: float = 20
) -> Any:
    """Call `look` until `good` accepts its result, and return that result."""
    async with asyncio.timeout(within_s):
        while not good(seen := await look()):  # noqa: ASYNC110 - another process changes the state
            await asyncio.sleep(0.05)
    return seen


@dataclass
class Site:
    """Our Flower, served in this process over real HTTP, with real pools."""

    app: KeysFlower
    url: str
    client: httpx.AsyncClient
    redis: Redis
    pools: dict[str, Any]
    keys: dict[str, tuple[ApiKey, ...]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    async def status(self) -> dict[str, Any]:
        answer = await self.client.get(f"{PREFIX}/status", auth=LOGIN)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def key(self, service: str, number: int = 0) -> dict[str, Any]:
        # Another process changed the pool, so earlier reads of it do not count.
        await self.app.poller.fresh_state(force=True)
        return dict((await self.status())["services"][service]["keys"][number])

    async def disable(self, service: str = "groq", number: int = 0) -> str:
        key_id = self.keys[service][number].id
        await self.pools[service].disable(key_id, by="test")
        return key_id

    async def refuse(self, service: str = "groq") -> str:
        """Make the provider refuse a key for good; return the key's id."""
        lease = await self.pools[service].acquire(LeaseRequest())
        assert isinstance(lease, Lease)
        await self.pools[service].settle(
            lease, Verdict(Fate.NEXT_KEY, "invalid_key", effect=Effect.DISABLE, status=401)
        )
        return lease.key.id


Serve = Callable[..., Awaitable[Site]]


async def post(site: Site, path: str, **options: Any) -> Any:
    return await site.client.post(f"{PREFIX}/{path}", **({"auth": LOGIN} | options))
