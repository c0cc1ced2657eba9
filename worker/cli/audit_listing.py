"""Lays out `keys audit`: two lines for each entry, within 80 columns and with names in full."""

from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.text import Text

from worker.cli.plain_text import plain, utc


def listing(entries: Mapping[str, Iterable[Mapping[str, str]]]) -> Group:
    """Lay out the audit trails of services for a terminal, the latest entry first."""
    pairs = [(service, entry) for service, trail in entries.items() for entry in trail]
    pairs.sort(key=lambda pair: -int(pair[1]["at_ms"]))
    lines = []
    for service, entry in pairs:
        when = utc(int(entry["at_ms"]))
        name = f"{entry['scope'].replace('_', ' × ')} {plain(entry['name'])}"
        lines.append(Text(f"{when} UTC  {service:<6} {entry['event']:<15} {name}", overflow="fold"))
        why = f"{plain(entry['reason'])}, " if entry["reason"] else ""
        lines.append(Text(f"    {why}by {plain(entry['by'])}", style="dim", overflow="fold"))
    return Group(*lines)
