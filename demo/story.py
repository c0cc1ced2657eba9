"""What happens to jobs and keys, told in lines.

Read from the workers' logs and from the pools' audit streams.
"""

import re
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 200
_CALM_S = 1.0
_SHORT = 12
_SAME_REST_MS = 1_000
_JOBS = {"ai": "completion", "email": "email"}
_QUEUES = {"Groq": "ai", "Resend": "email"}
_RETRY_RE = re.compile(
    r"\[tasks\.(ai|email)\.\w+ \S+\] Task \S+ retry: Retry in ([\d.]+)s: (\w+)\(['\"](.*)['\"]"
)
_USING_RE = re.compile(r"Using (Groq|Resend) key: (\S+) \(attempt (\d+)/\d+\)")
_FAILED_RE = re.compile(r"API key marked as failed: (\S+ \(\d+/\d+ failed\))")
_WHY_RE = re.compile(r"^no key is free: (.*); next try in .*$")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the story.

    When (seconds after the jobs were enqueued), a sign, the words, a colour.
    """

    at_s: float
    sign: str
    words: str
    style: str = ""


@dataclass(slots=True)
class _Crowd:
    """Like things that happened within a moment, told as one."""

    count: int = 0
    least_s: float = float("inf")
    most_s: float = 0.0

    def add(self, countdown_s: float) -> None:
        self.count += 1
        self.least_s = min(self.least_s, countdown_s)
        self.most_s = max(self.most_s, countdown_s)

    @property
    def span(self) -> str:
        if self.most_s - self.least_s < 0.1:  # noqa: PLR2004 - as good as the same
            return f"{self.most_s:.1f} s"
        return f"{self.least_s:.1f} to {self.most_s:.1f} s"


class Log:
    """A log file that is read as it grows.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        """The complete lines that were written since the last call."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            content = stream.read()
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [line.decode(errors="replace") for line in lines]


class Story:
    """Collects events and counts.

    Attributes:
        events: The latest, oldest first.
        deferrals: Deferrals by queue: a job went back with a countdown because no key was free.
        retries: Retries by queue, after a failure of the provider.
        rotations: By queue: a job went on with the next key at once.
        recoveries: How often something that rested serves again.
        cooldowns: How often something began to rest.
    """

    def __init__(self) -> None:
        self.events: deque[Event] = deque(maxlen=_SHOWN)
        self.told = 0
        self.deferrals: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.rotations: Counter[str] = Counter()
        self.recoveries = 0
        self.cooldowns = 0
        self._resting: dict[tuple[str, str, str], int] = {}
        self._limits: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._crowds: dict[tuple[str, str, str], _Crowd] = defaultdict(_Crowd)
        self._crowd_since_s = 0.0
        self._start_s = time.monotonic()
        self.labels: dict[str, str] = {}

    def begin(self) -> None:
        """Count the time of events from now on."""
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self._start_s

    def tell(self, sign: str, words: str, style: str = "") -> None:
        """Add an event."""
        self.events.append(Event(self.elapsed_s, sign, words, style))
        self.told += 1

    def newest(self, seen: int) -> list[Event]:
        """The events after the first `seen` ones, as far as they are kept."""
        count = min(self.told - seen, len(self.events))
        return list(self.events)[-count:] if count > 0 else []

    def read_line(self, line: str) -> None:
        """Learn from one line of a worker's log."""
        if found := _RETRY_RE.search(line):
            queue, countdown_s, kind, words = found.groups()
            deferred = kind == "Deferred"
            (self.deferrals if deferred else self.retries)[queue] += 1
            why = _WHY_RE.sub(r"\1", words)
            self._crowds["deferred" if deferred else "retry", queue, why].add(float(countdown_s))
        elif found := _USING_RE.search(line):
            service, label, attempt = found.groups()
            if int(attempt) > 1:
                self.rotations[_QUEUES[service]] += 1
                self._crowds["rotation", _QUEUES[service], label].add(0.0)
        elif found := _FAILED_RE.search(line):
            self.tell("🚨", f"key marked as failed: {found[1]}", "red")

    def tell_crowds(self, *, all_of_them: bool = False) -> None:
        """Tell what happened often within the last second as one event each."""
        if not all_of_them and self.elapsed_s - self._crowd_since_s < _CALM_S:
            return
        self._crowd_since_s = self.elapsed_s
        limits, self._limits = self._limits, defaultdict(list)
        for (service, scope), learned in limits.items():
            self.tell("🎓", f"{service}: limits learned for {scope}: {', '.join(learned)}", "green")
        crowds, self._crowds = self._crowds, defaultdict(_Crowd)
        for (kind, queue, detail), crowd in crowds.items():
            jobs = f"{crowd.count} {_JOBS[queue]}{'s' if crowd.count > 1 else ''}"
            if kind == "deferred":
                self.tell(
                    "⏳",
                    f"{jobs} deferred, no key is free ({detail}): again in {crowd.span}",
                    "cyan",
                )
            elif kind == "retry":
                self.tell("🔁", f"{jobs} to be tried again in {crowd.span}: {detail}", "magenta")
            else:
                self.tell("🔄", f"rotation: {jobs} went on with {detail} at once", "blue")

    def read_audit(self, service: str, entry: dict[str, str]) -> None:
        """Learn from one entry of a pool's audit stream."""
        event, name, reason = entry["event"], entry["name"], entry["reason"]
        shown = self._shown(name)
        if event == "cooled":
            self._cool(service, entry)
        elif event == "disabled":
            self._resting.pop((service, entry["scope"], name), None)
            self.tell(
                "⛔", f"{service}: {shown} is out until somebody resets it ({reason})", "bold red"
            )
        elif event == "unfit":
            self.tell(
                "🚫",
                f"{service}: {shown} is not to be had ({reason}), and not asked for again",
                "yellow",
            )
        elif event == "account_learned":
            self.tell(
                "🎓", f"{service}: {shown} belongs to {_short(reason)}, as a refusal says", "green"
            )
        elif event == "limit_learned":
            self._limits[service, self._shown(_scope_of(name))].append(reason)
        elif event == "reset":
            self.tell("🔓", f"{service}: {shown} was reset", "green")
        else:
            self.tell("❔", f"{service}: {event} {shown} ({reason})")

    def _cool(self, service: str, entry: dict[str, str]) -> None:
        at_ms, until_ms = int(entry["at_ms"]), int(entry["until_ms"])
        self.wake(at_ms)
        place = (service, entry["scope"], entry["name"])
        known_ms = self._resting.get(place)
        self._resting[place] = until_ms
        if known_ms is None:
            self.cooldowns += 1
        elif until_ms - known_ms < _SAME_REST_MS:
            return  # the answers to calls that left together
        rest_s = (until_ms - at_ms) / 1000
        self.tell(
            "🧊",
            f"{service}: {self._shown(entry['name'])} rests {rest_s:.1f} s ({entry['reason']})",
            "yellow",
        )

    def _shown(self, name: str) -> str:
        """A name for people: while nobody knows a key's account, the key's id stands for it."""
        return " × ".join(self.labels.get(part) or _short(part) for part in name.split(" × "))

    def wake(self, now_ms: int) -> None:
        """Tell what serves again by now.

        Args:
            now_ms: Redis' clock, in milliseconds since 1970.
        """
        for place, until_ms in list(self._resting.items()):
            if until_ms <= now_ms:
                del self._resting[place]
                self.recoveries += 1
                self.tell("✅", f"{place[0]}: {self._shown(place[2])} is back", "green")


def _scope_of(record: str) -> str:
    """`account × model` of an entry's name, `ACCOUNT:MODEL`."""
    account, _, model = record.partition(":")
    return f"{account} × {model}" if model else account


def _short(name: str) -> str:
    """A name without its end where it is long: an organisation's has thirty signs."""
    return f"{name[:_SHORT]}…" if name.startswith("org_") and len(name) > _SHORT else name
