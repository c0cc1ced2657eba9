"""Lays out `dead list`: a few lines for each letter, within 80 columns and with ids in full."""

from collections.abc import Iterable

from rich.console import Group
from rich.text import Text

from worker.cli.plain_text import plain, utc
from worker.deadletters.dead_letter import DeadLetter


def listing(letters: Iterable[DeadLetter]) -> Group:
    """Lay out dead letters for a terminal, in their order."""
    lines = []
    for letter in letters:
        lines.append(Text(f"{utc(letter.at_ms)} UTC  {plain(letter.id)}", overflow="fold"))
        doubt = ", in doubt" if letter.in_doubt else ""
        calls = f"{letter.calls} call{'s' * (letter.calls != 1)}{doubt}"
        summary = f"    {plain(letter.task)}  {letter.kind} ({calls})"
        lines.append(Text(summary, style="dim", overflow="fold"))
        lines.append(Text(f"    {plain(letter.reason)}", overflow="fold"))
    return Group(*lines)
