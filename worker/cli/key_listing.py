"""Lays out `keys status`: one or two lines for each key, within 80 columns and with full names."""

from collections.abc import Iterable

from rich.console import Group
from rich.text import Text

from worker.cli.plain_text import plain
from worker.keypool import BlockView, KeyView, PoolView

_STYLES = {"ready": "green", "cooling": "yellow", "disabled": "red"}
_HEAD = (
    f"{'key':<13} {'id':<12} {'state':<8} {'back in':<11} {'room':<9} "
    f"{'calls':>6} {'429s':>5} {'tokens':>8}"
)


def listing(views: Iterable[PoolView]) -> Group:
    """Lay out the key pools for a terminal."""
    lines: list[Text] = []
    for view in views:
        if lines:
            lines.append(Text())
        counts = view.summary()
        if not view.keys:
            lines.append(Text(f"{view.service}: no key is configured here", style="bold"))
            continue
        ready = f"{counts['ready'] or 'none'} of {counts['keys']} keys ready"
        paused = "paused, " if any(map(_is_pause, view.keys[0].blocks)) else ""
        head = f"{view.service}: {paused}{ready}, {counts['in_flight']} calls in flight"
        lines += [Text(head, style="bold"), Text(_HEAD, style="dim")]
        for key in view.keys:
            lines += _lines(key)
    return Group(*lines)


def _lines(key: KeyView) -> list[Text]:
    first = Text(f"{key.label:<13} {key.id:<12} ")
    first.append(f"{key.state:<8}", style=_STYLES[key.state])
    first.append(
        f" {_back_in(key):<11} {_room(key):<9} {key.calls:>6} {key.refused:>5} {key.tokens:>8}"
    )
    facts = [
        *dict.fromkeys(map(_reason, key.blocks)),
        *([f"account {key.account}"] if key.account != key.id else []),
        *([f"note: {key.note}"] if key.note else []),
    ]
    return [first, Text(f"    {plain('; '.join(facts))}", overflow="fold")] if facts else [first]


def _is_pause(block: BlockView) -> bool:
    return block.scope == "host" and bool(block.disabled_by)


def _reason(block: BlockView) -> str:
    paused = "paused:" if _is_pause(block) else ""
    size = f"for {block.from_tokens:,} tokens or more" if block.from_tokens else ""
    by = f"(by {block.disabled_by})" if block.disabled_by else ""
    return " ".join(filter(None, (paused, block.reason, block.name, size, by)))


def _back_in(key: KeyView) -> str:
    if key.state == "ready":
        return ""
    if key.left_ms is not None:
        return duration(-(-key.left_ms // 1000))
    endless = [block for block in key.blocks if block.left_ms is None]
    if not endless or any(not block.disabled_by for block in endless):
        return "until reset"
    return "on resume" if any(map(_is_pause, endless)) else "on enable"


def duration(seconds: int) -> str:
    """Return a time in its two largest units, such as `1 h 30 min`; nothing for 0 seconds."""
    for unit_s, unit, part_s, part in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {unit} {seconds % unit_s // part_s} {part}"
    return f"{seconds} s" if seconds else ""


def _room(key: KeyView) -> str:
    """Show how much is left of the limit nearest to exhaustion."""
    shares = [
        (bucket.remaining / bucket.limit, bucket.dimension)
        for bucket in key.buckets
        if bucket.limit > 0
    ]
    if not shares:
        return ""
    share, dimension = min(shares)
    return f"{max(0, int(share * 100))}% {dimension}"
