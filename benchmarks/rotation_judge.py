"""Judges one run of `python -m benchmarks.rotation` by the sandbox's ledger."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from benchmarks.rotation_scenarios import Load, Scenario

REFUSED = frozenset({"429", "413"})
SOON_S = 5
"""How long after an outage its refusals are counted."""


@dataclass
class Outcome:
    """The outcome of one run.

    Attributes:
        allowed: See `Scenario.allowed`, in calls or in tokens.
        used: The accepted part of `allowed`, in the same unit.
        span_s: The time from the first arrival at the provider to the last.
        due: The jobs that were due within the run.
        not_begun: The jobs that got no place in a worker before the run was over.
        served: The jobs that succeeded.
        failed: The jobs that ended with an error.
        still_open: The jobs in progress at the end.
        lost: The jobs that got a place but are not in the three counts before.
        lost_to: The exceptions that their code raised, by name.
        refused: The calls answered with 429 or 413.
        statuses: The calls by the status of the answer; 0 stands for no answer.
        others: The calls that neither succeeded nor were refused, and whose status no step of the
            scenario causes.
        wait_p50_s: The median time of served jobs from their place in a worker to their end.
        trips: Round trips to Redis for each accepted call, by the name of the script.
    """

    scenario: str
    contender: str
    processes: int
    seconds: float
    rate: float
    span_s: float
    allowed: float
    used: float
    accepted_of_allowed: float
    refused_of_accepted: float
    accepted: int
    refused: int
    statuses: dict[str, int]
    others: dict[str, int]
    due: int
    not_begun: int
    served: int
    failed: int
    lost: int
    lost_to: dict[str, int]
    still_open: int
    while_cooling: int
    wait_p50_s: float
    wait_p99_s: float
    cpu_ms: float
    trips: dict[str, float]
    after: "Recovery | None" = None


@dataclass
class Recovery:
    """The first seconds after an outage of all keys.

    Attributes:
        first_second: The calls that arrived in the first second, accepted or not, as a share of
            what was allowed in it.
        refused: The calls refused in the first five seconds.
        behind_s: The delay of the accepted calls: how much later than the keys allow one second's
            worth of calls was accepted.
    """

    first_second: float
    refused: int
    behind_s: float


@dataclass(frozen=True)
class WorkerReports:
    """The worker processes of one run, and when they began to offer jobs, in seconds since 1970."""

    reports: list[dict[str, Any]]
    began_s: float


def judge(
    scenario: Scenario,
    contender: str,
    *,
    load: Load,
    workers: WorkerReports,
    ledger: dict[str, Any],
    stats: dict[str, Any],
) -> Outcome:
    """Compare what was accepted with what the keys allowed."""
    book = ledger["services"][scenario.service]
    accepted, statuses, reports = book["accepted"], book["by_status"], workers.reports
    refused = sum(statuses.get(status, 0) for status in REFUSED)
    made = {str(step["status"]) for step in scenario.steps if "status" in step}
    # If a process stopped late, the keys allowed more in the meantime.
    allowed = scenario.allowed(load, max(load.seconds, book["last_s"] - workers.began_s))
    used = book["tokens"] if scenario.by_tokens else accepted
    jobs = {
        name: sum(report[name] for report in reports)
        for name in ("started", "ok", "failed", "open")
    }
    due = sum(load.due(load.seconds))
    waits = sorted(wait for report in reports for wait in report["waits_s"]) or [0.0]
    return Outcome(
        scenario=scenario.name,
        contender=contender,
        processes=load.processes,
        seconds=load.seconds,
        rate=load.rate,
        span_s=round(book["last_s"] - book["first_s"], 3),
        allowed=allowed,
        used=used,
        accepted_of_allowed=used / allowed,
        refused_of_accepted=refused / max(accepted, 1),
        accepted=accepted,
        refused=refused,
        statuses=statuses,
        others={
            status: count
            for status, count in statuses.items()
            if status not in REFUSED | made | {"200"}
        },
        due=due,
        not_begun=due - jobs["started"],
        served=jobs["ok"],
        failed=jobs["failed"],
        lost=jobs["started"] - jobs["ok"] - jobs["failed"] - jobs["open"],
        lost_to=dict(sum((Counter(report["raised"]) for report in reports), Counter())),
        still_open=jobs["open"],
        while_cooling=ledger["judgement"]["calls_while_cooling"],
        wait_p50_s=waits[len(waits) // 2],
        wait_p99_s=waits[int(len(waits) * 0.99)],
        cpu_ms=sum(report["cpu_s"] for report in reports) * 1000 / max(accepted, 1),
        trips={
            name: count / max(accepted, 1)
            for name, count in trips(contender, reports, stats).items()
        },
    )


def trips(contender: str, reports: list[dict[str, Any]], stats: dict[str, Any]) -> dict[str, int]:
    """Count round trips to Redis.

    Keywheel's are counted by the name of the script; for the others, all commands are one sum.
    """
    if contender == "keywheel":
        return dict(sum((Counter(report["trips"]) for report in reports), Counter()))
    aside = {"hello", "auth", "client", "select", "ping", "info", "config"}
    commands = [
        (name.removeprefix("cmdstat_").partition("|")[0], line["calls"])
        for name, line in stats.items()
    ]
    return {"commands": sum(count for name, count in commands if name not in aside)}


def recovery(scenario: Scenario, calls: list[dict[str, Any]], *, seconds: float) -> Recovery:
    """Judge the first seconds after the outage."""
    step = scenario.outage or {}
    end_s = min(call["arrived_s"] for call in calls) + step["at_s"] + step["seconds"]
    after = [(call["arrived_s"] - end_s, call) for call in calls if call["arrived_s"] >= end_s]
    accepted = sorted(at_s for at_s, call in after if call["accepted"])
    at_once = len(scenario.owners)  # at the end of the outage each account allows one call
    worth = round(scenario.per_second)
    return Recovery(
        first_second=sum(at_s < 1 for at_s, _ in after) / (scenario.per_second + at_once),
        refused=sum(at_s < SOON_S and str(call["status"]) in REFUSED for at_s, call in after),
        behind_s=accepted[worth - 1] - (worth - at_once) / scenario.per_second
        if len(accepted) >= worth
        else seconds,
    )
