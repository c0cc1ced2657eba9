"""Drills with two versions at the same time."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery.result import AsyncResult

from benchmarks.drills.drill import Drill, Scale, Site
from benchmarks.drills.stack import ROOT, WorkerSlot

DEFAULT_REVISION = "HEAD~50"


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """Check out another version with `git worktree` until the block ends."""
    tree = folder / "other-version"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", str(tree), revision], check=True, capture_output=True)  # noqa: S603
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True, capture_output=True)  # noqa: S603


def rolling_upgrade(site: Site) -> None:
    """Workers of another version are replaced one by one by present ones, and then back again.

    Jobs come all the time, and all keys rest once while both versions run.
    """
    revision = site.options.get("revision") or DEFAULT_REVISION
    with checkout(revision, site.stack.folder) as tree:
        other = {"PYTHONPATH": str(tree)}
        for slot in site.stack.slots:
            _replace(site, slot, other)
        site.stack.await_ready()
        for number, environ in enumerate((other, {}, other, {})):
            for slot in site.stack.slots:
                if slot.environ != environ:
                    _replace(site, slot, environ)
                site.send(0.2)
                if number == 1 and slot is site.stack.slots[0]:
                    for service in ("groq", "resend"):
                        site.control("exhaust", service=service, seconds=site.scale.trouble_s)
                site.stack.await_ready()
                site.pass_time(site.scale.trouble_s)
        site.recovered()
        site.send()
        site.notes["other version"] = revision


def _replace(site: Site, slot: WorkerSlot, environ: dict[str, str]) -> None:
    site.stack.dismiss(slot)
    slot.environ = environ
    site.stack.fill()


def later_messages(site: Site) -> None:
    """Jobs of a later version come: unknown ones are kept and reported, the others are done.

    An unknown task and an unknown argument become dead letters that can be replayed, and no
    email is sent for them. Unknown headers, and headers of another form, change nothing.
    """
    site.send(0.5)
    ends: dict[str, str] = {}
    for name, kwargs, headers, ends_as in _LATER:
        job_id = str(uuid.UUID(int=site.chance(), version=4))
        site.app.send_task(
            name,
            kwargs={key: job_id if value is ... else value for key, value in kwargs.items()},
            headers=headers,
            queue=name.split(".")[1],
            task_id=job_id,
        )
        ends[job_id] = ends_as
    site.send()
    backend = site.results()
    for job_id, ends_as in ends.items():
        result = AsyncResult(job_id, app=backend)
        site.until(result.ready, within_s=site.scale.limit_s, what=f"the end of a job, {ends_as}")
        outcome = type(result.result).__name__ if result.failed() else "served"
        if outcome != ends_as:
            site.broken.append(f"a message of a later version ended as {outcome}, not as {ends_as}")
    letters = {letter["id"]: letter for letter in _dead_letters(site)}
    for job_id, ends_as in ends.items():
        if ends_as == "served":
            continue
        if job_id not in letters or not letters[job_id]["replayable"]:
            site.broken.append(f"a message that ended as {ends_as} has no dead letter to replay")
        if site.stack.sandbox.mail().get(job_id):
            site.broken.append(f"an email went out for a message that ended as {ends_as}")


_MAIL = {"to": "ann@example.com", "subject": ..., "text": "Hello"}
_ASK: dict[str, Any] = {"prompt": "Hello", "max_completion_tokens": 20}
_LATER: tuple[tuple[str, dict[str, Any], dict[str, Any] | None, str], ...] = (
    ("tasks.ai.transcribe", {"url": "https://example.com/a.ogg"}, None, "NotRegistered"),
    ("tasks.ai.complete", _ASK | {"thinking_budget": 7}, None, "InvalidArguments"),
    ("tasks.email.send", _MAIL | {"track_opens": True}, None, "InvalidArguments"),
    ("tasks.ai.complete", _ASK, {"keywheel_tenant": {"name": "a", "share": 0.5}}, "served"),
    ("tasks.ai.complete", _ASK, {"keywheel": {"version": 9, "trail": {"latest": []}}}, "served"),
    ("tasks.email.send", _MAIL, {"keywheel": [9, "since"]}, "served"),
)
"""Task, arguments, headers, and the expected end of the job; `...` stands for the job's id."""


def _dead_letters(site: Site) -> list[dict[str, Any]]:
    reply = site.results().send_task(
        "tasks.admin.dead_letters", kwargs={"limit": 100}, queue="admin"
    )
    answer: dict[str, Any] = reply.get(timeout=20)
    return list(answer["dead_letters"])


DRILLS = (
    Drill(
        "upgrade",
        rolling_upgrade,
        full=Scale(2_000, 500, trouble_s=5, limit_s=180),
        # With a user's settings: an older version may reject the short time limit of other drills.
        settings={"KEYWHEEL_TASK_TIME_LIMIT_S": "300"},
        silence_s=30,
    ),
    Drill(
        "later-message",
        later_messages,
        full=Scale(200, 50, trouble_s=0, limit_s=60),
        short=Scale(20, 10, trouble_s=0, limit_s=40),
    ),
)
