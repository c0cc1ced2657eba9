"""One worker process of the rotation benchmark.

It offers jobs at a steady rate and counts their outcomes.
"""

import asyncio
import functools
import inspect
import itertools
import json
import logging
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from config.api_key import ApiKey
from config.keys import load_keys
from config.settings import Settings
from worker.errors import Deferred, JobError, TransientError
from worker.key_pools import open_pool
from worker.keypool import Lease, LeaseRequest
from worker.keypool.scripts import Scripts
from worker.providers import Completion, Groq, Resend, SendRequest
from worker.redis.client import connect
from worker.verdicts import Effect, Fate

MODEL = "openai/gpt-oss-120b"
IN_FLIGHT = 200
HELD = 200
PLAIN_COOLDOWN_S = {"groq": 60.0, "resend": 300.0}

Serve = Callable[[int, int], Awaitable[str]]
"""Serves job `number`, of `size` tokens; returns `ok` or `failed`."""

TRIPS: Counter[str] = Counter()
"""Keywheel's round trips to Redis, by the name of the script."""

DEFERRALS = [0]


def completion(tokens: int) -> Completion:
    """A completion that reserves `tokens` for its answer."""
    params = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "go on"}],
        "max_completion_tokens": tokens,
    }
    return Completion.of(params)


def email(number: int, key: ApiKey) -> SendRequest:
    """An email from the team of the key."""
    payload = {
        "from": key.sender,
        "to": ["someone@example.org"],
        "subject": f"No. {number}",
        "text": "hello",
    }
    return SendRequest.single(payload, f"bench-{os.getpid()}-{number}")


def keywheel(work: dict[str, Any]) -> Serve:
    """Serve with our rotation; the process sleeps through deferrals."""
    from worker.rotation.rotation import Rotation  # noqa: PLC0415 - the other contenders do without

    count_trips()
    settings = Settings(redis_url=work["redis"])
    service = work["service"]
    redis = connect(settings)
    pool = open_pool(settings, redis, service, load_keys(service))
    provider: Any = (
        Groq(os.environ["GROQ_BASE_URL"])
        if service == "groq"
        else Resend(os.environ["RESEND_API_URL"])
    )
    if service == "groq":
        provider.prepare(key.secret for key in pool.keys)
    rotation = Rotation(pool, provider)

    async def serve(number: int, tokens: int) -> str:
        if service == "groq":
            request = completion(tokens)
            lease_request = LeaseRequest(
                model=MODEL, resource=MODEL, tokens=request.tokens, by=f"{os.getpid()}-{number}"
            )
            build: Callable[[Lease], Any] = lambda _: request  # noqa: E731
        else:
            lease_request = LeaseRequest(emails=1, by=f"{os.getpid()}-{number}")
            build = lambda lease: email(number, lease.key)  # noqa: E731
        began_s = time.monotonic()
        while True:
            try:
                await rotation.serve(lease_request, build)
            except Deferred as deferred:
                lease_request = replace(
                    lease_request, waited_ms=round((time.monotonic() - began_s) * 1000)
                )
                DEFERRALS[0] += 1
                await asyncio.sleep(deferred.countdown_ms / 1000)
            except TransientError:
                await asyncio.sleep(1)
            except JobError:
                return "failed"
            else:
                return "ok"

    return serve


def count_trips() -> None:
    """Count the calls of each script of the pool."""

    def counted(verb: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(method)
        async def call(*args: Any, **named: Any) -> Any:
            TRIPS[verb] += 1
            return await method(*args, **named)

        return call

    for verb, method in list(vars(Scripts).items()):
        if inspect.iscoroutinefunction(method):
            setattr(Scripts, verb, counted(verb, method))


def plain(work: dict[str, Any]) -> Serve:
    """Serve with the plain algorithm.

    It is round robin with a fixed rest after a refusal, separately in each process.
    """
    service = work["service"]
    keys = load_keys(service).keys
    provider: Any = (
        Groq(os.environ["GROQ_BASE_URL"])
        if service == "groq"
        else Resend(os.environ["RESEND_API_URL"])
    )
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
                rest_s = (
                    float("inf") if verdict.effect is Effect.DISABLE else PLAIN_COOLDOWN_S[service]
                )
                free_at[index] = time.monotonic() + rest_s
            await asyncio.sleep(max(0.05, min(free_at) - time.monotonic()))

    return serve


def litellm(work: dict[str, Any]) -> Serve:
    """Serve with LiteLLM's router; its limits are given, its state is in Redis."""
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
            | {
                name: limit
                for name, limit in next(limits).items()
                if name in {"rpm", "tpm"} and limit
            },
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


async def offer(serve: Serve, work: dict[str, Any], began: float) -> dict[str, Any]:
    """Offer this process' share of the jobs until the time is over, and count the outcomes.

    Args:
        serve: The contender.
        work: The order of the benchmark; its `rate` is that of all processes together.
        began: When to begin, by the monotonic clock.
    """
    tokens = itertools.cycle(work["tokens"])
    started, waits, ends = 0, [], {"ok": 0, "failed": 0}
    raised: Counter[str] = Counter()
    slots = asyncio.Semaphore(
        IN_FLIGHT + HELD
    )  # the rest waits in a queue, as with a worker's backpressure
    tasks: set[asyncio.Task[None]] = set()

    async def job(number: int, size: int, placed: float) -> None:
        try:
            end = await serve(number, size)
            ends[end] += 1
            if end == "ok":
                waits.append(round(time.monotonic() - placed, 3))
        except Exception as exc:  # noqa: BLE001 - such a job is lost, and the report says to what
            raised[type(exc).__name__] += 1
        finally:
            slots.release()

    try:
        async with asyncio.timeout_at(
            began + work["seconds"]
        ):  # the event loop's clock is the monotonic one
            for number in itertools.count():
                due = began + (number * work["processes"] + work["number"]) / work["rate"]
                await asyncio.sleep(max(0, due - time.monotonic()))
                await slots.acquire()
                task = asyncio.create_task(job(number, next(tokens), time.monotonic()))
                started += 1
                tasks.add(task)
                task.add_done_callback(tasks.discard)
    except TimeoutError:
        pass
    still_open = sum(not task.done() for task in tasks)
    return {
        "waits_s": waits,
        "started": started,
        "open": still_open,
        "raised": raised,
        "trips": TRIPS,
        "deferrals": DEFERRALS[0],
        **ends,
    }


def cpu_s() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    """Get ready, begin at the instant given on stdin, and print one line of JSON."""
    work = json.loads(sys.argv[1])
    logging.disable(logging.CRITICAL)
    serve = {"keywheel": keywheel, "plain": plain, "litellm": litellm}[work["contender"]](work)
    print("READY", flush=True)
    began = time.monotonic() + float(sys.stdin.readline()) - time.time()
    spent_s = cpu_s()
    report = await offer(serve, work, began)
    print(json.dumps(report | {"cpu_s": cpu_s() - spent_s}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
