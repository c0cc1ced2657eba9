"""Makes a timeline of jobs and keys, from the workers' logs and the audit streams."""

import json
import re
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_MAX_EVENTS = 200
_GROUP_INTERVAL_S = 1.0
_MAX_ORGANISATION = 12
_SAME_REST_MS = 1_000
_JOBS = {"ai": "completion", "email": "email"}
_QUEUES = {"Groq": "ai", "Resend": "email"}
_USING_RE = re.compile(r"Using (Groq|Resend) key: (\S+) \(attempt (\d+)/\d+\)")
_FAILED_RE = re.compile(r"API key marked as failed: (\S+ \(\d+/\d+ failed\))")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline.

    Attributes:
        at_s: When it happened, in seconds after the first job was enqueued.
        sign: An emoji.
        words: What happened.
        style: Its colour.
    """

    at_s: float
    sign: str
    words: str
    style: str = ""


@dataclass(slots=True)
class _Group:
    """Similar events within a moment, shown as one."""

    count: int = 0
    least_s: float = float("inf")
    most_s: float = 0.0

    def add(self, countdown_s: float) -> None:
        self.count += 1
        self.least_s = min(self.least_s, countdown_s)
        self.most_s = max(self.most_s, countdown_s)

    @property
    def span(self) -> str:
        if self.most_s - self.least_s < 0.1:  # noqa: PLR2004 - they look the same
            return f"{self.most_s:.1f} s"
        return f"{self.least_s:.1f} to {self.most_s:.1f} s"


class Timeline:
    """Collects events and counts.

    Attributes:
        events: The latest events, oldest first.
        added: How many events there were in all.
        deferrals: Deferrals by queue: a job went back with a countdown because no key was free.
        retries: Retries by queue, after a failure of the provider.
        rotations: By queue, how often a job continued with the next key at once.
        recoveries: How often a key, account or model became ready again after a rest.
        cooldowns: How often a rest began.
        labels: The labels of keys by their ids.
    """

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self.added = 0
        self.deferrals: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.rotations: Counter[str] = Counter()
        self.recoveries = 0
        self.cooldowns = 0
        self.labels: dict[str, str] = {}
        self._resting: dict[tuple[str, str, str], int] = {}
        self._limits: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._groups: dict[tuple[str, str, str], _Group] = defaultdict(_Group)
        self._grouped_s = 0.0
        self._start_s = time.monotonic()

    def begin(self) -> None:
        """Start the clock of the timeline."""
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """The seconds since `begin`."""
        return time.monotonic() - self._start_s

    def add(self, sign: str, words: str, style: str = "") -> None:
        """Add an event."""
        self.events.append(Event(self.elapsed_s, sign, words, style))
        self.added += 1

    def newest(self, seen: int) -> list[Event]:
        """Return the events after the first `seen` events, unless they are no longer kept."""
        count = min(self.added - seen, len(self.events))
        return list(self.events)[-count:] if count > 0 else []

    def read_log(self, line: str) -> None:
        """Read one line of a worker's log, a JSON object; skip any other line."""
        try:
            record = json.loads(line)
        except ValueError:
            return
        waits = (record.get("data") or {}).get("waits")
        message = record.get("message", "")
        if isinstance(waits, dict):
            self._read_wait(record, waits)
        elif used := _USING_RE.search(message):
            service, label, attempt = used.groups()
            if int(attempt) > 1:
                self.rotations[_QUEUES[service]] += 1
                self._groups["rotation", _QUEUES[service], label].add(0.0)
        elif failed := _FAILED_RE.search(message):
            self.add("🚨", f"key marked as failed: {failed[1]}", "red")

    def _read_wait(self, record: dict[str, Any], waits: dict[str, Any]) -> None:
        queue = record["data"]["name"].split(".")[1]
        next_try, now = (datetime.fromisoformat(at) for at in (waits["next_try"], record["time"]))
        is_deferral = waits["kind"] == "key"
        (self.deferrals if is_deferral else self.retries)[queue] += 1
        group = self._groups["deferred" if is_deferral else "retry", queue, waits["code"]]
        group.add(max(0.0, (next_try - now).total_seconds()))

    def add_groups(self, *, at_once: bool = False) -> None:
        """Add the events of the last second, similar ones as one.

        Args:
            at_once: Do not wait until the second is over.
        """
        if not at_once and self.elapsed_s - self._grouped_s < _GROUP_INTERVAL_S:
            return
        self._grouped_s = self.elapsed_s
        limits, self._limits = self._limits, defaultdict(list)
        for (service, scope), learned in limits.items():
            self.add("🎓", f"{service}: limits learned for {scope}: {', '.join(learned)}", "green")
        groups, self._groups = self._groups, defaultdict(_Group)
        for (kind, queue, detail), group in groups.items():
            jobs = f"{group.count} {_JOBS[queue]}{'s' if group.count > 1 else ''}"
            if kind == "deferred":
                self.add(
                    "⏳",
                    f"{jobs} deferred for {group.span}, because no key is free ({detail})",
                    "cyan",
                )
            elif kind == "retry":
                self.add("🔁", f"{jobs} will be tried again in {group.span}: {detail}", "magenta")
            else:
                self.add("🔄", f"rotation: {jobs} continued at once with {detail}", "blue")

    def read_audit(self, service: str, entry: dict[str, str]) -> None:
        """Read one entry of a pool's audit stream."""
        event, name, reason = entry["event"], entry["name"], entry["reason"]
        label = self._label_of(name)
        match event:
            case "cooled":
                self._add_rest(service, entry)
            case "disabled":
                self._resting.pop((service, entry["scope"], name), None)
                self.add(
                    "⛔",
                    f"{service}: {label} is disabled until a person resets it ({reason})",
                    "bold red",
                )
            case "unfit":
                self.add(
                    "🚫", f"{service}: {label} is skipped: it is not available ({reason})", "yellow"
                )
            case "account_learned":
                account = _shortened(reason)
                self.add(
                    "🎓",
                    f"{service}: {label} belongs to {account}, according to a refusal",
                    "green",
                )
            case "limit_learned":
                self._limits[service, self._label_of(_scope_of(name))].append(reason)
            case "reset":
                self.add("🔓", f"{service}: {label} was reset", "green")
            case _:
                self.add("❔", f"{service}: {event} {label} ({reason})")

    def _add_rest(self, service: str, entry: dict[str, str]) -> None:
        at_ms, until_ms = int(entry["at_ms"]), int(entry["until_ms"])
        self.end_rests(at_ms)
        key = (service, entry["scope"], entry["name"])
        known_ms = self._resting.get(key)
        self._resting[key] = until_ms
        if known_ms is None:
            self.cooldowns += 1
        elif until_ms - known_ms < _SAME_REST_MS:
            return  # a later answer to a call of the same moment
        rest_s = (until_ms - at_ms) / 1000
        self.add(
            "🧊",
            f"{service}: {self._label_of(entry['name'])} rests {rest_s:.1f} s ({entry['reason']})",
            "yellow",
        )

    def _label_of(self, name: str) -> str:
        """Return a readable name. A key's id stands for its account until that is known."""
        return " × ".join(self.labels.get(part) or _shortened(part) for part in name.split(" × "))

    def end_rests(self, now_ms: int) -> None:
        """Add an event for each rest that has ended.

        Args:
            now_ms: Redis' clock, in milliseconds since 1970.
        """
        for key, until_ms in list(self._resting.items()):
            if until_ms <= now_ms:
                del self._resting[key]
                self.recoveries += 1
                self.add("✅", f"{key[0]}: {self._label_of(key[2])} is back", "green")


def _scope_of(record: str) -> str:
    """Return `account × model` for an entry named `ACCOUNT:MODEL`."""
    account, _, model = record.partition(":")
    return f"{account} × {model}" if model else account


def _shortened(name: str) -> str:
    """Shorten the id of an organisation, which has thirty characters."""
    is_long = name.startswith("org_") and len(name) > _MAX_ORGANISATION
    return f"{name[:_MAX_ORGANISATION]}…" if is_long else name
