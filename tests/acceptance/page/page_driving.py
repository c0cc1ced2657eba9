"""Actions on the page, and on the jobs behind it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fleets import Fleet
from tests.processes import eventually

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
RESET_WITHIN_S = 2.0

Open = Callable[..., Any]


def card(page: Any, secret: str) -> Any:
    return page.get_by_role("article", name=f"{secret[:10]}...")


def state(page: Any, secret: str, word: str, *, within_s: float = 10) -> float:
    """Wait until a key's card shows a state; return how long that took, in seconds."""
    started = time.monotonic()
    card(page, secret).locator(".key-state", has_text=word).wait_for(timeout=within_s * 1000)
    return time.monotonic() - started


def has_focus(control: Any) -> bool:
    """Whether a control has the focus."""
    return bool(control.evaluate("(element) => element === document.activeElement"))


def screenshot(page: Any, name: str) -> None:
    """Save a picture in the folder that KEEP_SCREENSHOTS names.

    It shows the whole page, or the part that a phone shows.
    """
    if folder := os.environ.get("KEEP_SCREENSHOTS"):
        page.screenshot(
            path=str(Path(folder) / f"{name}.png"), full_page=page.viewport_size != PHONE
        )


def end_some_jobs(fleet: Fleet) -> None:
    """Make jobs that fail for good.

    One has a caller's mistake, one killed workers, and one sends an email that is in doubt.
    """
    call = {
        "at_ms": 1,
        "key": f"{fleet.sandbox.keys('resend')[0][:9]}...",
        "code": "timeout",
        "in_doubt": True,
    }
    mail = {
        "from": "a@team1.example.net",
        "to": "ann@example.com",
        "subject": "canary",
        "text": "canary",
    }
    # A new id each time: with a known id, the result of an earlier job would end the wait at once.
    long_id = f"order-{time.time_ns():0>150}"
    for name, kwargs, headers, job in (
        ("tasks.ai.complete", {"prompt": "canary", "temperature": 9}, {}, long_id),
        ("tasks.ai.complete", {"prompt": "canary"}, {"deaths": 5, "keywheel_alone": 4}, None),
        ("tasks.email.send", mail, {"keywheel": {"attempts": 1, "trail": [call]}}, None),
    ):
        result = fleet.producer.app.send_task(
            name, kwargs=kwargs, queue=name.split(".")[1], headers=headers, task_id=job
        )
        fleet.producer.outcome(result)


def await_end_of_all_jobs(fleet: Fleet) -> None:
    """Wait until the broker holds no job: Redis has no empty lists and hashes."""
    queues = [name for service in ("ai", "email") for name in (service, f"{service}.deferred")]
    keys = ["unacked", *queues, *(f"{queue}.due.texts" for queue in queues)]
    broker = fleet.producer.app.backend.client
    eventually(
        lambda: not broker.exists(*keys),
        within_s=30,
        what=lambda: f"the end of all jobs (left: {[key for key in keys if broker.exists(key)]})",
    )


def enqueue_waiting_jobs(fleet: Fleet, count: int) -> None:
    """Enqueue jobs that wait until the keys are reset, and have the worker pause their queue.

    A lease that is given back unused wakes the queue, even if the last job has already learned that
    all keys rest. No job is left then that would pause the queue again. So the last job is enqueued
    when the other jobs hold no lease any more.
    """
    broker = fleet.producer.app.backend.client
    fleet.producer.many("tasks.ai.complete", [{"prompt": "x"}] * (count - 1))
    eventually(
        lambda: (
            broker.llen("ai") + broker.hlen("ai.deferred.due.texts") == count - 1
            and not broker.hlen("unacked")
        ),
        what="the wait of all jobs in the broker",
    )
    fleet.producer.many("tasks.ai.complete", [{"prompt": "x"}])


def poisoned(fleet: Fleet, *, wait: bool = True) -> Any:
    """A job that becomes a dead letter at once."""
    result = fleet.producer.app.send_task(
        "tasks.ai.complete",
        kwargs={"prompt": "canary"},
        queue="ai",
        headers={"deaths": 5, "keywheel_alone": 4},
    )
    if wait:
        fleet.producer.outcome(result)
    return result
