"""The output of `keys check`: one or two lines a key that fit 80 columns, with names in full."""

from collections.abc import Iterable
from itertools import groupby

from rich.console import Group
from rich.text import Text

from worker.cli.plain_text import plain
from worker.rotation.key_checks import CheckedKey

_STYLES = {"alive": "green", "unknown": "yellow", "dead": "red"}
_HEAD = f"{'key':<13} {'id':<12} {'state':<8} limits"


def listing(checked: Iterable[CheckedKey]) -> Group:
    """Lay out what the providers say of the keys of each service for a terminal."""
    lines: list[Text] = []
    for service, group in groupby(checked, key=lambda one: one.service):
        if lines:
            lines.append(Text())
        ones = list(group)
        alive = sum(one.check.state == "alive" for one in ones)
        head = f"{service}: {alive or 'none'} of {len(ones)} keys accepted"
        lines += [Text(head, style="bold"), Text(_HEAD, style="dim")]
        for one in ones:
            lines += _lines(one)
    return Group(*lines)


def _lines(one: CheckedKey) -> list[Text]:
    first = Text(f"{one.key.label:<13} {one.key.id:<12} ")
    first.append(f"{one.check.state:<8}", style=_STYLES[one.check.state])
    limits = ", ".join(f"{name}={limit}" for name, limit in one.as_json()["limits"].items())
    first.append(f" {limits}".rstrip())
    facts = [
        *([one.check.detail] if one.check.detail else []),
        *(f"{model}: {'yes' if may else 'no'}" for model, may in one.models.items()),
        *([f"account {one.account}"] if one.account != one.key.id else []),
    ]
    return [first, Text(f"    {plain('; '.join(facts))}", overflow="fold")] if facts else [first]
