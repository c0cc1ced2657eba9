"""A second provider simulator, independent of the sandbox.

It is a minimal Groq and Resend, with fixed windows and no headers about limits.

Its 429 has `retry-after` and an empty error: it names no organisation, limit or use.
"""

import asyncio
import sys
import time
from collections import Counter, defaultdict
from typing import Any

from aiohttp import web


class Foreign:
    """Counts calls by key in windows aligned to the clock, and judges the client."""

    def __init__(self, *, window_s: int, limit: int) -> None:
        self.window_s = window_s
        self.limit = limit
        self.used: Counter[tuple[str, int]] = Counter()
        self.cooling: dict[str, tuple[float, float]] = {}
        self.emails: dict[str, int] = {}
        self.answered: Counter[str] = Counter()
        self.early_ms: list[float] = []
        self.by_key: dict[str, Counter[str]] = defaultdict(Counter)

    def turn_away(self, request: web.Request) -> web.Response | None:
        now_s = time.time()
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        refused_s, until_s = self.cooling.get(key, (0.0, 0.0))
        if refused_s + 1.5 < now_s < until_s - 0.002:  # longer than any call is in flight
            self.early_ms.append((until_s - now_s) * 1000)
        window = int(now_s) // self.window_s
        self.used[key, window] += 1
        if self.used[key, window] <= self.limit:
            self.by_key[key]["ok"] += 1
            return None
        wait_s = (window + 1) * self.window_s - now_s
        retry_after_s = max(1, -int(-wait_s // 1))
        if until_s < now_s:
            self.cooling[key] = (now_s, now_s + retry_after_s)
        self.by_key[key]["refused"] += 1
        return web.json_response({}, status=429, headers={"retry-after": str(retry_after_s)})

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if refused := self.turn_away(request):
            return refused
        await asyncio.sleep(0.02)
        text = body["messages"][-1]["content"]
        self.answered[text] += 1
        message = {"role": "assistant", "content": f"re: {text}"}
        return web.json_response(
            {
                "id": "x", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }
        )  # fmt: skip

    async def email(self, request: web.Request) -> web.Response:
        await request.json()
        if refused := self.turn_away(request):
            return refused
        number = self.emails.setdefault(request.headers["Idempotency-Key"], len(self.emails))
        return web.json_response({"id": f"00000000-0000-4000-8000-{number:012d}"})

    async def judgement(self, _: web.Request) -> web.Response:
        judgement: dict[str, Any] = {
            "answered": len(self.answered),
            "twice": sum(count > 1 for count in self.answered.values()),
            "emails": len(self.emails),
            "early_ms": self.early_ms,
            "by_key": {key[:8]: dict(counts) for key, counts in self.by_key.items()},
        }
        return web.json_response(judgement)


async def main() -> None:
    foreign = Foreign(window_s=4, limit=30)
    app = web.Application()
    app.router.add_post("/openai/v1/chat/completions", foreign.complete)
    app.router.add_post("/emails", foreign.email)
    app.router.add_get("/judgement", foreign.judgement)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - the parent reads the port
    await asyncio.to_thread(sys.stdin.read)  # until the parent closes it


if __name__ == "__main__":
    asyncio.run(main())
