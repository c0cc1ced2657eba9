"""Lays out `keys check`: one or two lines for each key, within 80 columns and with full names."""

from collections.abc import Iterable
from itertools import groupby

from rich.console import Group
from rich.text import Text

from worker.cli.plain_text import plain
from worker.rotation.key_checks import CheckedKey

_STYLES = {"alive": "green", "unknown": "yellow", "dead": "red"}
_HEAD = f"{'key':<13} {'id':<12} {'state':<8} limits"


def listing(checked: Iterable[CheckedKey]) -> Group:
    """Lay out the checks of the keys of each service for a terminal."""
    lines: list[Text] = []
    for service, group in groupby(checked, key=lambda result: result.service):
        if lines:
            lines.append(Text())
        results = list(group)
        alive = sum(result.check.state == "alive" for result in results)
        head = f"{service}: {alive or 'none'} of {len(results)} keys accepted"
        lines += [Text(head, style="bold"), Text(_HEAD, style="dim")]
        for result in results:
            lines += _lines(result)
    return Group(*lines)


def _lines(result: CheckedKey) -> list[Text]:
    first = Text(f"{result.key.label:<13} {result.key.id:<12} ")
    first.append(f"{result.check.state:<8}", style=_STYLES[result.check.state])
    limits = ", ".join(f"{name}={limit}" for name, limit in result.as_json()["limits"].items())
    first.append(f" {limits}".rstrip())
    facts = [
        *([result.check.detail] if result.check.detail else []),
        *(f"{model}: {'yes' if may else 'no'}" for model, may in result.models.items()),
        *([f"account {result.account}"] if result.account != result.key.id else []),
    ]
    return [first, Text(f"    {plain('; '.join(facts))}", overflow="fold")] if facts else [first]
