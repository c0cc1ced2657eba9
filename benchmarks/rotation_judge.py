"""What became of one run of `python -m benchmarks.rotation`, by the sandbox's ledger."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from benchmarks.rotation_scenarios import Load, Scenario

REFUSED = frozenset({"429", "413"})
SOON_S = 5
"""How long after an outage refusals are held against it."""


@dataclass
class Outcome:
    """One run.

    Attributes:
        allowed: See `Scenario.allowed`, in calls or in tokens.
        used: What was accepted of it, in the same unit.
        span_s: From the first arrival at the provider to the last.
        due: Jobs that were due within the run.
        not_begun: Jobs that got no place in a worker before it was over.
        served: Jobs that ended well.
        failed: Jobs that ended with an error.
        still_open: Jobs in progress at the end.
        lost: Jobs that got a place and are none of these.
        lost_to: What their code raised, by name.
        refused: Calls answered 429 or 413.
        statuses: Calls by the status of the answer; 0 is none.
        others: Those of them that are neither success nor refusal, and that no step of the scenario
            makes.
        wait_p50_s: Of the jobs served, from their place in a worker to their end.
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
    """What came after an outage of all keys.

    Attributes:
        first_second: Calls that arrived in its first second, accepted or not, as a share of what
            was allowed then.
        refused: Calls refused in its first five seconds.
        behind_s: How much later than the keys allow as many calls were accepted as fit into one
            second.
    """

    first_second: float
    refused: int
    behind_s: float


@dataclass(frozen=True)
class Crew:
    """The worker processes of one run, and when they began to offer jobs, in seconds since 1970."""

    reports: list[dict[str, Any]]
    began_s: float


def judge(
    scenario: Scenario,
    contender: str,
    *,
    load: Load,
    crew: Crew,
    ledger: dict[str, Any],
    stats: dict[str, Any],
) -> Outcome:
    """Hold what was accepted against what the keys allowed."""
    book = ledger["services"][scenario.service]
    accepted, statuses, reports = book["accepted"], book["by_status"], crew.reports
    refused = sum(statuses.get(status, 0) for status in REFUSED)
    made = {str(step["status"]) for step in scenario.steps if "status" in step}
    # Should a process have stopped late, the keys allowed more meanwhile.
    allowed = scenario.allowed(load, max(load.seconds, book["last_s"] - crew.began_s))
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

    Keywheel's by the name of the script, of the others all commands together.
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
    at_once = len(scenario.owners)  # at the end of the outage one call of each account fits
    worth = round(scenario.per_second)
    return Recovery(
        first_second=sum(at_s < 1 for at_s, _ in after) / (scenario.per_second + at_once),
        refused=sum(at_s < SOON_S and str(call["status"]) in REFUSED for at_s, call in after),
        behind_s=accepted[worth - 1] - (worth - at_once) / scenario.per_second
        if len(accepted) >= worth
        else seconds,
    )
