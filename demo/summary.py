"""Judges a run by its results and by the providers' ledger, and gives the figures."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.watch import Watch

_SHOWN = 5
_ACCOUNT_CHARS = 12
_SERVER_ERROR = 500
_JOBS = {"ai": "completion", "email": "email"}


@dataclass(slots=True)
class Summary:
    """The judgement of a run.

    Attributes:
        took_s: The time from enqueueing the first job until the last job ended, in seconds.
        figures: The figures, by name.
        keys: One row for each key.
        faults: What went wrong, one sentence each.
    """

    took_s: float
    figures: dict[str, str] = field(default_factory=dict)
    keys: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        """Print it."""
        table = Table(
            "key", "account", "calls", "accepted", "429s", "5xx", "401s", "resting", box=None
        )
        for column in table.columns[2:]:
            column.justify = "right"
        for row in self.keys:
            table.add_row(*(str(cell) for cell in row.values()))
        console.print(table)
        console.print()
        for name, value in self.figures.items():
            console.print(Text(f"{name}: {value}"), soft_wrap=True)
        if not self.faults:
            console.print(
                Text(
                    "✓ every job ended as it should, and the providers' ledger agrees",
                    style="bold green",
                )
            )
        for sentence in self.faults:
            console.print(Text(f"✗ {sentence}", style="bold red"), soft_wrap=True)


def judge(watch: Watch, ledger: dict[str, Any], *, took_s: float) -> Summary:
    """Judge a run.

    Args:
        watch: The state of the demo.
        ledger: The sandbox's full ledger.
        took_s: How long the jobs took, in seconds.
    """
    summary = Summary(took_s)
    judgement, timeline = ledger["judgement"], watch.timeline
    ai, email = watch.queues["ai"], watch.queues["email"]
    summary.faults += _faults(watch, ledger)
    tallies = ledger["keys"]
    # In the order of the view; the ledger names keys by the same fingerprint.
    summary.keys = [
        _row(tallies[key.id])
        for view in watch.views.values()
        for key in view.keys
        if key.id in tallies
    ]
    waits = [
        float(result["result"]["waited_s"])
        for progress in watch.queues.values()
        for result in progress.results.values()
        if result["status"] == "SUCCESS"
    ]
    summary.figures = {
        "jobs": f"{ai.done}/{ai.total} completions and {email.done}/{email.total} emails done"
        f" in {took_s:.1f} s",
        "jobs failed": str(ai.failed + email.failed),
        "deferrals": f"{timeline.deferrals['ai']} of completions,"
        f" {timeline.deferrals['email']} of emails"
        f" (longest wait for a key: {max(waits, default=0.0):.1f} s)",
        "models": _models(ai.results.values()),
        "calls for a model that was switched off": f"{_not_found_calls(ledger)}"
        f" of {len(ledger['calls'])}",
        "rotations": f"{timeline.rotations.total()} calls repeated at once with the next key"
        " after a refusal",
        "retries": f"{timeline.retries.total()} after failures of a provider",
        "recoveries": f"{timeline.recoveries} after {timeline.cooldowns} cooldowns",
        "calls on a resting key": str(judgement["calls_while_cooling_same_key"]),
        "calls on a revoked key after its refusal": str(judgement["calls_after_refusal"]),
        "emails accepted": f"{judgement['emails_accepted']},"
        f" of which twice: {judgement['emails_accepted_twice']}"
        f" (in {_email_calls(watch, tallies)} calls, answers lost: "
        f"{judgement['accepted_but_answer_lost']})",
    }
    return summary


def _models(results: Iterable[dict[str, Any]]) -> str:
    """Return how many completions each model has answered."""
    counts = Counter(
        str(result["result"].get("model")) for result in results if result["status"] == "SUCCESS"
    )
    return (
        ", ".join(f"{count} completions by {model}" for model, count in sorted(counts.items()))
        or "none answered"
    )


def _not_found_calls(ledger: dict[str, Any]) -> int:
    return sum(call["status"] == HTTPStatus.NOT_FOUND for call in ledger["calls"])


def _email_calls(watch: Watch, tallies: dict[str, Any]) -> int:
    """Count the calls that Resend accepted, with one email or several."""
    view = watch.views.get("resend")
    return sum(tallies[key.id]["accepted"] for key in view.keys if key.id in tallies) if view else 0


def _shortened(account: str) -> str:
    return account if len(account) <= _ACCOUNT_CHARS else f"{account[:_ACCOUNT_CHARS]}…"


def _row(tally: dict[str, Any]) -> dict[str, Any]:
    by_status = {int(status): count for status, count in tally["by_status"].items()}
    return {
        "key": tally["label"],
        "account": _shortened(tally["account"]),
        "calls": tally["calls"],
        "accepted": tally["accepted"],
        "429s": by_status.get(429, 0),
        "5xx": sum(count for status, count in by_status.items() if status >= _SERVER_ERROR),
        "401s": by_status.get(401, 0),
        "resting": tally["calls_while_cooling"],
    }


def _faults(watch: Watch, ledger: dict[str, Any]) -> list[str]:
    """Return everything that went wrong."""
    faults = []
    for queue, progress in watch.queues.items():
        job = _JOBS[queue]
        if progress.open:
            faults.append(f"{progress.open} {job}s did not end")
        bad = [
            sentence
            for id_, result in progress.results.items()
            if (sentence := _fault_of(job, id_, result))
        ]
        faults += bad[:_SHOWN]
        if len(bad) > _SHOWN:
            faults.append(f"and {len(bad) - _SHOWN} more {job}s")
    if watch.over:
        faults += _disagreements(watch, ledger)
    return faults


def _fault_of(job: str, id_: str, result: dict[str, Any]) -> str:
    if result["status"] != "SUCCESS":
        error = result.get("result") or {}
        message = error.get("exc_message") if isinstance(error, dict) else error
        words = " ".join(map(str, message)) if isinstance(message, list | tuple) else str(message)
        return f"{job} {id_}: {result['status']}: {words}"
    wanted = "text" if job == "completion" else "id"
    value = result["result"].get(wanted)
    return "" if isinstance(value, str) and value else f"{job} {id_}: its result has no {wanted}"


def _disagreements(watch: Watch, ledger: dict[str, Any]) -> list[str]:
    """Return where the providers' ledger contradicts the results."""
    judgement = ledger["judgement"]
    emails = watch.queues["email"]
    reported = {
        result["result"].get("id")
        for result in emails.results.values()
        if result["status"] == "SUCCESS"
    }
    accepted = [
        id_ for call in ledger["calls"] if call["accepted"] for id_ in call.get("emails", ())
    ]
    completions = ledger["services"]["groq"]["accepted"]
    checks = (
        (judgement["emails_accepted_twice"], "emails were accepted twice"),
        (judgement["content_accepted_twice"], "emails with the same content were accepted twice"),
        (len(accepted) - emails.total, "more emails were accepted than there are jobs"),
        (len(set(accepted) ^ reported), "ids of emails differ between results and ledger"),
        (
            max(0, watch.queues["ai"].total - completions),
            "completions have a result that no provider made",
        ),
    )
    return [f"{count} {sentence}" for count, sentence in checks if count]
