"""Tasks of a user's application, which call providers with the keys of the pool."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from celery import shared_task

from worker.celery import app
from worker.clients import groq, groq_client, groq_sync, once, once_sync, resend, resend_sync
from worker.errors import TransientError

MODEL = "openai/gpt-oss-20b"
left_over: set[asyncio.Task[None]] = set()


async def ask(prompt: str, client: Any = None) -> str:
    messages = [{"role": "user", "content": prompt}]
    answer = await (client or groq).chat.completions.create(model=MODEL, messages=messages)
    return str(answer.choices[0].message.content)


@app.task(bind=True)
async def letter(self: Any, topic: str) -> dict[str, Any]:
    """Run twice: the first run ends after the email is sent."""
    draft = await once("draft", lambda: ask(f"draft {topic}"))
    polished = await once("polished", lambda: ask(f"polish {draft}"))
    sent = await resend.send(to="ann@example.org", subject=topic, text=polished)
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return {"email": sent["id"], "checked": len(await ask(f"check {polished}"))}


@app.task(bind=True)
async def two_letters(self: Any, topic: str) -> int:
    """Run twice: the first run sends the first email, the second one both in reverse order."""
    people = ["ann@example.org", "bob@example.org"]
    if self.request.retries == 0:
        await resend.send(to=people[0], subject=topic, text=f"Dear {people[0]}")
        raise self.retry(countdown=0)
    for person in reversed(people):
        await resend.send(to=person, subject=topic, text=f"Dear {person}")
    return len(people)


@app.task
async def steadfast(topic: str) -> str:
    """Send the same email again if the first call failed."""
    while True:
        try:
            return str((await resend.send(to="ann@example.org", subject=topic, text="Hi"))["id"])
        except TransientError:
            await asyncio.sleep(0.1)


@app.task
async def steps_at_once(topic: str) -> list[str]:
    return await asyncio.gather(*(once("step", lambda: ask(topic)) for _ in range(4)))


@shared_task
def plain(topic: str) -> dict[str, Any]:
    messages: list[Any] = [{"role": "user", "content": topic}]
    answer = groq_sync.chat.completions.create(model=MODEL, messages=messages)
    sent = resend_sync.send(
        to="ann@example.org", subject=topic, text=answer.choices[0].message.content
    )
    return {"email": sent["id"]}


@app.task(bind=True)
def plain_letter(self: Any, topic: str) -> dict[str, Any]:
    """Run twice, like `letter`; several threads call its step at once."""
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(copy_context().run, plain_step, topic) for _ in range(3)]
        texts = {future.result() for future in futures}
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return {"texts": list(texts), "again": plain_step(topic)}


def plain_step(topic: str) -> str:
    messages: list[Any] = [{"role": "user", "content": topic}]
    return once_sync(
        "step",
        lambda: str(
            groq_sync.chat.completions.create(model=MODEL, messages=messages)
            .choices[0]
            .message.content
        ),
    )


@app.task
async def patient(topic: str) -> str:
    return await ask(topic, groq_client(longest_wait_s=60))


@app.task
async def grouped(topic: str) -> int:
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(ask(f"{topic} {number}")) for number in range(2)]
    return len([task.result() for task in calls])


@app.task(soft_time_limit=1)
async def hurried(topic: str) -> str:
    return await ask(topic)


@app.task(soft_time_limit=1)
async def insistent(topic: str) -> str:
    return await ask(topic, groq_client(max_retries=2))


@app.task
async def careful(topic: str) -> str:
    try:
        return await ask(topic)
    except Exception as exc:  # noqa: BLE001 - a task that goes on without an answer
        return f"no answer: {type(exc).__name__}"


@app.task
async def refused(topic: str) -> str:
    return await ask(topic)


@app.task
async def wrong() -> None:
    await resend.send(to="nobody", subject="x", text="y")


@app.task
async def mailed(topic: str) -> str:
    """Send the email before a call that may defer the job."""
    text = await once("draft", lambda: drafted(topic))
    await resend.send(to="ann@example.org", subject=topic, text=text)
    await ask(f"check {topic}")
    return text


async def drafted(topic: str) -> str:
    return f"A letter about {topic}"


@app.task
def mailed_plain(topic: str) -> str:
    text = once_sync("draft", lambda: f"A letter about {topic}")
    resend_sync.send(to="ann@example.org", subject=topic, text=text)
    groq_sync.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": topic}])
    return text


def note(job: str, exc: Exception) -> None:
    app.backend.client.set(f"late:{job}", f"{type(exc).__name__}: {exc} {exc.__cause__}")


@app.task(bind=True, time_limit=1, soft_time_limit=None)
def overlong(self: Any, topic: str) -> None:
    """A plain function that goes on after its hard limit."""
    job = self.request.id
    while self.AsyncResult(job).state != "FAILURE":
        time.sleep(0.05)
    try:
        plain.run(topic)
    except Exception as exc:  # noqa: BLE001 - the test reads it
        note(job, exc)


@app.task(bind=True)
async def forgetful(self: Any, topic: str) -> str:
    """Leave a child task behind."""
    job, ended = self.request.id, asyncio.Event()

    async def child() -> None:
        await ended.wait()
        try:
            await ask(topic)
        except Exception as exc:  # noqa: BLE001 - as above
            note(job, exc)

    left_over.add(asyncio.create_task(child()))
    asyncio.get_running_loop().call_later(0.5, ended.set)
    return topic
