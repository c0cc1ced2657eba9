"""Judges what became of each job of a drill.

The result store has the end of the job, the sandbox's ledger the accepted calls.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis

ENDED = {"SUCCESS", "FAILURE", "REVOKED"}
EXPECTED_FAILURES = {"OutcomeUnknown", "DeadlineExceeded", "RetriesExhausted"}
"""Failures whose reason is true: a fault of the provider, or a key that never came back."""

_SLOWEST = 3
_SHOWN = 5
_LINES = 14
_STAMP_RE = re.compile(r"(?m)^(\d{4}-\d\d-\d\dT[\d:.]+Z) (\S+)\s+(.*)$")


@dataclass
class Job:
    """One job.

    Attributes:
        id: The id, the same in every copy of its message.
        email: Whether it is an email; else it is a completion.
        sent_s: When it was enqueued, in seconds since 1970.
        copies: How often its message was published.
        end: Its final result as it was first seen.
        last: Its result at the end of the run.
    """

    id: str
    email: bool
    sent_s: float = 0.0
    copies: int = 0
    end: dict[str, Any] | None = None
    last: dict[str, Any] | None = None

    @property
    def took_s(self) -> float:
        """The time from enqueueing to the end, in seconds."""
        if self.end is None:
            return 0.0
        done = datetime.fromisoformat(self.end["date_done"])
        return (done if done.tzinfo else done.replace(tzinfo=UTC)).timestamp() - self.sent_s

    @property
    def kind(self) -> str:
        """The end: `SUCCESS`, or the kind of the failure."""
        if self.end is None:
            return "no end"
        result = self.end["result"]
        return (
            str(result.get("exc_type", "?"))
            if self.end["status"] == "FAILURE"
            else str(self.end["status"])
        )


@dataclass
class Verdict:
    """The judgement of a run.

    Attributes:
        broken: One sentence for each broken promise, with examples; empty if all promises held.
        figures: The figures, by name.
    """

    broken: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def count(self, name: str, found: list[Any], *, promise: bool = True) -> None:
        """Note the cases of a kind; if it is a promise, any case breaks it."""
        self.figures[name] = len(found)
        if found and promise:
            self.broken.append(
                f"{name}: {len(found)}, such as {', '.join(map(str, found[:_SHOWN]))}"
            )


def read_ends(client: "redis.Redis", jobs: list[Job], *, last: bool = False) -> None:
    """Read which jobs have a final result; `last` also reads the results that are known already."""
    for first in range(0, len(jobs), 1_000):
        part = jobs[first : first + 1_000]
        for job, text in zip(
            part, client.mget([f"celery-task-meta-{job.id}" for job in part]), strict=True
        ):
            meta = json.loads(text) if text else None
            if last:
                job.last = meta
            if job.end is None and meta and meta["status"] in ENDED:
                job.end = meta


def left_in_broker(client: "redis.Redis") -> dict[str, bytes]:
    """Return all messages that wait or are being worked on, by the name of the Redis key."""
    left = {}
    for name in ("ai", "email", "ai.deferred", "email.deferred", "unacked.unreadable"):
        if items := client.lrange(name, 0, -1):
            left[name] = b"\n".join(items)
    for name in ("ai.deferred", "email.deferred"):
        if items := client.hvals(f"{name}.due.texts"):
            left[f"{name}, not due"] = b"\n".join(items)
    if held := client.hvals("unacked"):
        left["unacked"] = b"\n".join(held)
    return left


def judge(
    jobs: list[Job],
    *,
    mail: dict[str, list[str]],
    left: dict[str, bytes],
    deaths: list[str],
    seconds: float,
) -> Verdict:
    """Compare the end of every job with the promises.

    Args:
        jobs: All jobs.
        mail: The accounts that accepted mail of each subject; an email's subject is its job's id.
        left: The messages that are still in the broker.
        deaths: The workers that ended by themselves.
        seconds: The duration of the run.
    """
    verdict = Verdict()
    there = b"\n".join(left.values())
    open_jobs = [job for job in jobs if job.end is None]
    verdict.count("lost", [job.id for job in open_jobs if job.id.encode() not in there])
    verdict.count("stuck", [job.id for job in open_jobs if job.id.encode() in there])
    emails = [job for job in jobs if job.email]
    verdict.count(
        "emails accepted twice",
        [f"{job.id} by {mail[job.id]}" for job in emails if _times(mail, job) > 1],
    )
    claimed = [job.id for job in emails if job.kind == "SUCCESS" and not _times(mail, job)]
    verdict.count("emails reported as sent but never accepted", claimed)
    denied = [job for job in emails if job.end and job.kind != "SUCCESS" and _times(mail, job)]
    verdict.count(
        "emails accepted although their job failed",
        [f"{job.id} ({job.kind})" for job in denied if job.kind != "OutcomeUnknown"],
    )
    verdict.count(
        "emails accepted, outcome unknown",
        [job.id for job in denied if job.kind == "OutcomeUnknown"],
        promise=False,
    )
    changed = [job for job in jobs if job.end and _status(job) != job.end["status"]]
    verdict.count(
        "jobs whose final state changed", [f"{job.id} to {_status(job)}" for job in changed]
    )
    verdict.count(
        "results that a second run replaced",
        [
            job.id
            for job in jobs
            if job.end and job.last and job.end["result"] != job.last["result"]
        ],
        promise=False,
    )
    verdict.count("workers that ended by themselves", deaths)
    verdict.count("jobs that failed without a true reason", [
        f"{job.id} ({job.kind})"
        for job in jobs
        if job.end and job.kind not in {"SUCCESS", *EXPECTED_FAILURES}
    ])  # fmt: skip
    kinds = Counter(job.kind for job in jobs)
    took = sorted(job.took_s for job in jobs if job.end) or [0.0]
    verdict.figures |= {
        "ended by kind": dict(kinds.most_common()),
        "seconds": round(seconds, 1),
        "jobs a second": round(len(jobs) / seconds, 1),
        "time to the end, s": {
            "median": round(took[len(took) // 2], 2),
            "99 %": round(took[int(len(took) * 0.99)], 2),
            "slowest": round(took[-1], 2),
        },
        "left in the broker": {name: text.count(b"\n") + 1 for name, text in left.items()},
    }
    return verdict


def evidence(jobs: list[Job], mail: dict[str, list[str]], calls: list[dict[str, Any]]) -> list[str]:
    """The provider's records of the emails that were accepted more than once."""
    lines = []
    for job in [job for job in jobs if job.email and _times(mail, job) > 1][:_SHOWN]:
        lines.append(job.id)
        for call in calls:
            if job.id in call.get("subjects", ()) or call.get("idempotency_key") == job.id:
                at_s, count = call["arrived_s"] - job.sent_s, len(call["subjects"])
                text = f"{call['account']} {call['label']} {call['code']} {call['idempotency_key']}"
                lines.append(f"    {at_s:6.2f} s  {text}, {count} email(s) accepted")
    return lines


def _times(mail: dict[str, list[str]], job: Job) -> int:
    return len(mail.get(job.id, ()))


def _status(job: Job) -> str:
    return str(job.last["status"]) if job.last else "gone"


def slowest(jobs: list[Job], logs: str) -> list[str]:
    """The jobs that took longest, each with the workers' log lines about it."""
    ended = sorted((job for job in jobs if job.end), key=lambda job: -job.took_s)[:_SLOWEST]
    wanted = {job.id: job for job in ended}
    records: dict[str, list[tuple[float, str]]] = {job_id: [] for job_id in wanted}
    for stamp, _, text in _STAMP_RE.findall(logs):
        for job_id, job in wanted.items():
            if job_id in text:
                at_s = datetime.fromisoformat(stamp).timestamp() - job.sent_s
                records[job_id].append((at_s, text.replace(job_id, "…")))
    lines = []
    for job_id, job in wanted.items():
        lines.append(f"{job_id}: {job.took_s:.1f} s, {job.kind}, {job.copies} message(s)")
        story = sorted(records[job_id])
        hidden = max(0, len(story) - _LINES)
        for number, (at_s, text) in enumerate(story):
            if hidden and _LINES // 2 <= number < _LINES // 2 + hidden:
                if number == _LINES // 2:
                    lines.append(f"      … {hidden} lines …")
                continue
            lines.append(f"    {at_s:6.1f} s  {text[:150]}")
    return lines
