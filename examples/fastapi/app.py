"""A web application that enqueues jobs for Keywheel, and streams the answers to the browser.

The application imports nothing of Keywheel. docs/enqueueing.md describes the messages and records.
"""

import asyncio
import json
import os
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Annotated, Any

from celery import Celery
from fastapi import FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from kombu.exceptions import OperationalError
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
NAMESPACE = os.environ.get("KEYWHEEL_NAMESPACE", "kw")
# The prefix of our records of jobs: Redis cannot distinguish an unknown job from a waiting one.
OURS = "webapp:job:"
KEPT_S = 86_400  # as long as Keywheel keeps results
POLL_S = 0.2
PAGES = 5_000  # how many pages may follow a stream in this process; each holds a Redis connection
# After this time without a record, read the result, and send a comment to keep proxies connected.
SILENCE_MS = 5_000

# Without a result backend enqueueing is faster. The results are read below.
queue = Celery(broker=REDIS_URL, set_as_current=False)
queue.conf.update(
    task_routes={"tasks.ai.*": {"queue": "ai"}, "tasks.email.*": {"queue": "email"}},
    # A visitor is waiting, so fail soon.
    broker_transport_options={
        "socket_connect_timeout": 2,
        "socket_timeout": 5,
        "max_retries": 1,
        "interval_start": 0.2,
    },
    task_publish_retry=False,
)
redis = Redis.from_url(
    REDIS_URL,
    decode_responses=True,
    max_connections=PAGES + 100,  # with the default, 100 pages would leave none for other requests
    socket_connect_timeout=2,
    socket_timeout=15,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the connections at the end."""
    yield
    await redis.aclose()
    queue.close()


app = FastAPI(title="Keywheel from FastAPI", lifespan=lifespan)


@app.exception_handler(RedisError)
@app.exception_handler(OperationalError)
async def unreachable(_: Request, __: Exception) -> JSONResponse:
    """Answer 503 if Redis cannot be reached; the error may quote the URL, so it is not shown."""
    return JSONResponse(
        {"detail": "the queue cannot be reached, try again soon"}, 503, {"Retry-After": "5"}
    )


class Question(BaseModel):
    """A visitor's question."""

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]
    stream: bool = True


class Mail(BaseModel):
    """An email that a visitor sends."""

    to: str
    subject: Annotated[str, Field(min_length=1, max_length=200)]
    text: str


@app.get("/")
async def page() -> FileResponse:
    """Show the page."""
    return FileResponse(Path(__file__).parent / "page.html")


@app.post("/completions", status_code=202)
async def ask(question: Question) -> dict[str, str]:
    """Enqueue a completion."""
    return await enqueue("tasks.ai.complete", prompt=question.prompt, stream=question.stream)


@app.post("/emails", status_code=202)
async def send(mail: Mail) -> dict[str, str]:
    """Enqueue an email."""
    return await enqueue("tasks.email.send", to=mail.to, subject=mail.subject, text=mail.text)


async def enqueue(task: str, **arguments: Any) -> dict[str, str]:
    """Enqueue a job, and return its id and its addresses."""
    job_id = str(uuid.uuid4())
    await redis.set(OURS + job_id, task, ex=KEPT_S)
    # Celery blocks on the broker's socket, so it must not run on the event loop.
    await asyncio.to_thread(queue.send_task, task, kwargs=arguments, task_id=job_id)
    return {"id": job_id, "job": f"/jobs/{job_id}", "events": f"/jobs/{job_id}/events"}


@app.get("/jobs/{job_id}")
async def job(
    job_id: uuid.UUID, wait_s: Annotated[float, Query(ge=0, le=30)] = 0
) -> dict[str, Any]:
    """Return the state of a job; with `wait_s`, wait up to that long for its end."""
    await ours(job_id)
    deadline = time.monotonic() + wait_s
    state = await state_of(job_id)
    while state["state"] not in {"done", "failed"} and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        state = await state_of(job_id)
    return state


@app.get("/jobs/{job_id}/events")
async def events(
    job_id: uuid.UUID, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """Relay a job's stream as server-sent events.

    A browser that reconnects names the last event that it has.
    """
    await ours(job_id)
    since = (
        last_event_id
        if last_event_id and re.fullmatch(r"\d{1,20}-\d{1,20}", last_event_id)
        else "0"
    )
    return StreamingResponse(
        relay(job_id, since),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def relay(job_id: uuid.UUID, since: str) -> AsyncIterator[str]:
    """Yield the records after `since` as events as they arrive, until the last one."""
    name, last = f"{NAMESPACE}:stream:{job_id}", since
    yield "retry: 1000\n\n"  # how long the browser waits before it connects again, in milliseconds
    try:
        for block_ms in chain(
            [None], repeat(SILENCE_MS)
        ):  # at first without waiting: the job may already have ended
            reply = await redis.xread({name: last}, block=block_ms, count=500)
            for last, record in reply[0][1] if reply else ():
                kind = record.pop("type")
                record |= {
                    part: json.loads(record[part])
                    for part in ("tool_calls", "usage")
                    if part in record
                }
                yield event(kind, record, identity=last)
                if kind == "end":
                    return
            if not reply:
                state = await state_of(job_id)
                if state["state"] in {"done", "failed"}:
                    break
                yield ": still at work\n\n"
    except RedisError:
        return  # the browser reconnects, and names the last event that it has
    # The job was revoked or not streamed, or its stream has expired, so the result is shown.
    if "result" in state:
        yield event("restart", {"attempt": str(state["result"]["attempts"])})
        yield event(
            "delta",
            {"attempt": str(state["result"]["attempts"]), "text": state["result"].get("text", "")},
        )
    yield event(
        "end", {"status": state["state"]} | {n: state[n] for n in ("error", "reason") if n in state}
    )


def event(kind: str, data: dict[str, Any], *, identity: str = "") -> str:
    """Write one server-sent event."""
    return (
        f"id: {identity}\n" if identity else ""
    ) + f"event: {kind}\ndata: {json.dumps(data)}\n\n"


async def ours(job_id: uuid.UUID) -> None:
    """Check that this application enqueued a job. A real one also checks who owns the job."""
    if not await redis.exists(f"{OURS}{job_id}"):
        raise HTTPException(404, "there is no such job")


async def state_of(job_id: uuid.UUID) -> dict[str, Any]:
    """Return a job's state: `waiting`, `retrying`, `done` with a result, `failed` with a reason."""
    stored = await redis.get(f"celery-task-meta-{job_id}")
    outcome = json.loads(stored) if stored else {"status": "PENDING", "result": None}
    status, result = outcome["status"], outcome["result"]
    if status == "SUCCESS":
        return {"state": "done", "result": result}
    if status == "RETRY":  # no key is free, or the provider failed; Keywheel tries again later
        return {"state": "retrying", "reason": sentence(result)}
    if status in {"FAILURE", "REVOKED"}:
        return {
            "state": "failed",
            "error": result.get("exc_type", status),
            "reason": sentence(result),
        }
    return {"state": "waiting"}


def sentence(failure: dict[str, Any]) -> str:
    """Return the message of an error."""
    message = failure.get("exc_message")
    return " ".join(map(str, message)) if isinstance(message, list) else str(message or "")
