"""Shows the running demo: a live picture in a terminal, otherwise plain lines."""

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.watch import Watch
from worker.keypool import KeyView

_NAMES = {"ai": "completions", "email": "emails"}
_STYLES = {"ready": "green", "cooling": "yellow", "disabled": "bold red"}
_LINE_INTERVAL_S = 3.0
_MIN_EVENTS = 4
_OTHER_LINES = 12  # head, bars and frames of the picture


class View(Protocol):
    """Shows the state of a `Watch`."""

    def say(self, words: str) -> None:
        """Show what the demo does before the first job is enqueued."""

    def show(self, watch: Watch) -> None:
        """Show the present state."""


class Lines:
    """Prints plain lines: the progress every few seconds, and each event.

    Args:
        console: Where the lines are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ""
        self._seen = 0
        self._next_s = 0.0

    def say(self, words: str) -> None:
        """Print a line, unless it repeats the line before."""
        if words != self._last:
            self._last = words
            self._print(words)

    def show(self, watch: Watch) -> None:
        """Print the events since the last call, and from time to time the progress."""
        for event in watch.timeline.newest(self._seen):
            self._print(f"{event.at_s:5.1f} s  {event.sign} {event.words}")
        self._seen = watch.timeline.added
        if time.monotonic() >= self._next_s or watch.over:
            self._next_s = time.monotonic() + _LINE_INTERVAL_S
            self._print(f"{watch.timeline.elapsed_s:5.1f} s  {_progress_line(watch)}")

    def _print(self, words: str) -> None:
        self._console.print(words, markup=False, highlight=False, soft_wrap=True)


def _progress_line(watch: Watch) -> str:
    parts = []
    for queue, progress in watch.queues.items():
        failed = f", {progress.failed} failed" if progress.failed else ""
        parts.append(f"{_NAMES[queue]} {progress.done}/{progress.total}{failed}")
    parts.append(f"deferred now {sum(progress.deferred for progress in watch.queues.values())}")
    for service, view in watch.views.items():
        parts.append(f"{service} keys {len(view.keys) - view.failed}/{len(view.keys)} ready")
    return " · ".join(parts)


class Picture:
    """Draws a live picture. Enclose the calls of `show` in `shown`.

    Args:
        console: A terminal.
        head: The top line.
    """

    def __init__(self, console: Console, head: str) -> None:
        self._console = console
        self._head = head
        self._live = Live(console=console, auto_refresh=False, transient=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the picture on the screen."""
        with self._live:
            yield

    def say(self, words: str) -> None:
        """Show a line instead of the picture."""
        self._live.update(Text(words, style="dim"), refresh=True)

    def show(self, watch: Watch) -> None:
        """Draw the present state."""
        self._live.update(self.draw(watch), refresh=True)

    def draw(self, watch: Watch) -> RenderableType:
        """Return the whole picture."""
        keys = sum(len(view.keys) for view in watch.views.values())
        room = max(_MIN_EVENTS, self._console.height - _OTHER_LINES - keys)
        return Group(
            Text.assemble((f"{watch.timeline.elapsed_s:4.0f} s  ", "bold"), (self._head, "dim")),
            _bars(watch),
            _keys(watch),
            _events(watch, room),
        )


def _bars(watch: Watch) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    for column in range(4):
        table.add_column(ratio=1 if column == 1 else None, no_wrap=True)
    for queue, progress in watch.queues.items():
        table.add_row(
            Text(_NAMES[queue], style="bold"),
            ProgressBar(total=progress.total, completed=len(progress.results)),
            Text(f"{progress.done}/{progress.total}"),
            Text.assemble(
                (f"{progress.failed} failed", "red" if progress.failed else "dim"),
                (f"  {progress.deferred} deferred", "cyan" if progress.deferred else "dim"),
                (f"  {progress.retrying} retrying", "magenta" if progress.retrying else "dim"),
            ),
        )
    return table


def _keys(watch: Watch) -> Table:
    table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
    for name in ("key", "state", "why", "left", "in flight", "calls", "429s", "5xx"):
        table.add_column(
            name, justify="left" if name in {"key", "state", "why"} else "right", no_wrap=True
        )
    for view in watch.views.values():
        for key in view.keys:
            table.add_row(
                key.label,
                Text(key.state, style=_STYLES[key.state]),
                ", ".join(dict.fromkeys(block.reason for block in key.blocks)),
                Text(_left(key), style=_STYLES[key.state]),
                *(str(number) for number in (key.in_flight, key.calls, key.refused, key.faults)),
            )
    return table


def _left(key: KeyView) -> str:
    if key.left_ms is None:
        return "until reset"
    return f"{key.left_ms / 1000:.1f} s" if key.left_ms else ""


def _events(watch: Watch, room: int) -> Panel:
    lines = Text(no_wrap=True, overflow="ellipsis")
    for event in list(watch.timeline.events)[-room:]:
        lines.append(f"{event.at_s:5.1f} s ", style="dim")
        lines.append(f"{event.sign} {event.words}\n", style=event.style)
    lines.rstrip()
    return Panel(lines, title="timeline", title_align="left", border_style="dim", height=room + 2)
