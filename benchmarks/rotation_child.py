"""One worker process of the rotation benchmark: offers jobs at a steady rate and counts how they end."""

import asyncio
import itertools
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from config.keys import ApiKey, load_keys
from config.settings import Settings
from worker.errors import Deferred, Fault, JobError
from worker.keypool import Want
from worker.providers import Completion, Email, Groq, Resend
from worker.runtime import connect, open_pool
from worker.verdicts import Effect, Fate

MODEL = "llama-3.3-70b-versatile"
IN_FLIGHT = 200
HELD = 200
PLAIN_COOLDOWN_S = {"groq": 60.0, "resend": 300.0}

Serve = Callable[[int, int], Awaitable[str]]
"""Serves job number N of so many tokens; returns `ok` or `failed`."""


def completion(tokens: int) -> Completion:
    """A completion whose answer takes as many tokens as it may."""
    params = {"model": MODEL, "messages": [{"role": "user", "content": "go on"}], "max_completion_tokens": tokens}
    return Completion.of(params)


def email(number: int, key: ApiKey) -> Email:
    """An email from the key's own team."""
    payload = {"from": key.sender, "to": ["someone@example.org"], "subject": f"No. {number}", "text": "hello"}
    return Email(payload, f"bench-{os.getpid()}-{number}")


def keywheel(work: dict[str, Any]) -> Serve:
    """Our rotation, with the deferrals slept through in this process."""
    from worker.rotation import Rotation  # noqa: PLC0415 - the other contenders do without

    settings = Settings(redis_url=work["redis"])
    service = work["service"]
    redis = connect(settings)
    pool = open_pool(settings, redis, service, load_keys(service))
    provider: Any = Groq(os.environ["GROQ_BASE_URL"]) if service == "groq" else Resend(os.environ["RESEND_API_URL"])
    if service == "groq":
        provider.prepare(key.secret for key in pool.keys)
    rotation = Rotation(pool, provider)

    async def serve(number: int, tokens: int) -> str:
        if service == "groq":
            request = completion(tokens)
            want = Want(model=MODEL, topic=MODEL, tokens=request.tokens, max_wait_ms=5_000)
            build: Callable[[ApiKey], Any] = lambda _: request  # noqa: E731
        else:
            want = Want(emails=1, max_wait_ms=5_000)
            build = lambda key: email(number, key)  # noqa: E731
        while True:
            try:
                await rotation.serve(want, build)
            except Deferred as deferred:
                want = Want(
                    **{name: getattr(want, name) for name in Want.__dataclass_fields__} | {"ticket": deferred.ticket}
                )
                await asyncio.sleep(deferred.countdown_ms / 1000)
            except Fault:
                await asyncio.sleep(1)
            except JobError:
                return "failed"
            else:
                return "ok"

    return serve


def plain(work: dict[str, Any]) -> Serve:
    """The plain algorithm: round robin, a fixed rest after a refusal, in each process for itself."""
    service = work["service"]
    keys = load_keys(service).keys
    provider: Any = Groq(os.environ["GROQ_BASE_URL"]) if service == "groq" else Resend(os.environ["RESEND_API_URL"])
    turn = itertools.cycle(range(len(keys)))
    free_at = [0.0] * len(keys)

    async def serve(number: int, tokens: int) -> str:
        while True:
            for _ in keys:
                index = next(turn)
                if free_at[index] > time.monotonic():
                    continue
                request = completion(tokens) if service == "groq" else email(number, keys[index])
                verdict = (await provider.call(keys[index].secret, request)).verdict
                if verdict.fate is Fate.DONE:
                    return "ok"
                if verdict.fate is Fate.FAIL:
                    return "failed"
                rest_s = float("inf") if verdict.effect is Effect.DISABLE else PLAIN_COOLDOWN_S[service]
                free_at[index] = time.monotonic() + rest_s
            await asyncio.sleep(max(0.05, min(free_at) - time.monotonic()))

    return serve


def litellm(work: dict[str, Any]) -> Serve:
    """LiteLLM's router with its limits given and its state in Redis."""
    import litellm as lite  # noqa: PLC0415 - optional

    lite.suppress_debug_info = True
    limits = iter(account for account in work["accounts"] for _ in range(int(account["keys"])))
    models = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"groq/{MODEL}",
                "api_key": key.secret.get_secret_value(),
                "api_base": os.environ["GROQ_BASE_URL"] + "/openai/v1",
            }
            | {name: limit for name, limit in next(limits).items() if name in {"rpm", "tpm"} and limit},
        }
        for key in load_keys("groq").keys
    ]
    host, _, port = work["redis"].removeprefix("redis://").partition("/")[0].partition(":")
    router = lite.Router(
        model_list=models,
        routing_strategy="usage-based-routing-v2",
        redis_host=host,
        redis_port=int(port),
        num_retries=3,
        enable_pre_call_checks=True,
    )

    async def serve(number: int, tokens: int) -> str:  # noqa: ARG001
        request = completion(tokens)
        try:
            await router.acompletion(**request.params)
        except Exception:  # noqa: BLE001 - whatever it raises, the caller has no result
            return "failed"
        return "ok"

    return serve


async def offer(serve: Serve, work: dict[str, Any]) -> dict[str, Any]:
    """Offer jobs at the rate for the time; jobs that are not served by then do not count."""
    tokens = itertools.cycle(work["tokens"])
    began, waits, ends = time.monotonic(), [], {"ok": 0, "failed": 0}
    places = asyncio.Semaphore(IN_FLIGHT + HELD)  # a queue holds the rest, as a worker's gate would
    tasks: set[asyncio.Task[None]] = set()

    async def job(number: int, size: int, due: float) -> None:
        try:
            ends[await serve(number, size)] += 1
            waits.append(round(time.monotonic() - due, 3))
        finally:
            places.release()

    async def offering() -> None:
        for number in itertools.count():
            await asyncio.sleep(max(0, began + number / work["rate"] - time.monotonic()))
            await places.acquire()
            task = asyncio.create_task(job(number, next(tokens), time.monotonic()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    try:
        async with asyncio.timeout(work["seconds"]):
            await offering()
    except TimeoutError:
        pass
    return {"waits_s": waits, **ends}


async def main() -> None:
    """Run and print one line of JSON."""
    work = json.loads(sys.argv[1])
    logging.disable(logging.CRITICAL)
    serve = {"keywheel": keywheel, "plain": plain, "litellm": litellm}[work["contender"]](work)
    report = await offer(serve, work)
    used = resource.getrusage(resource.RUSAGE_SELF)
    sys.stdout.write(json.dumps(report | {"cpu_s": used.ru_utime + used.ru_stime}) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
