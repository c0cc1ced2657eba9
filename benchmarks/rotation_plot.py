"""Draws the rotation benchmark as an SVG, without a plotting library."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Protocol

_COLOURS = {"keywheel": "#2563eb", "plain": "#9ca3af", "litellm": "#f59e0b"}
_LEFT, _WIDTH, _ROW, _GAP, _TOP = 230, 300, 16, 12, 56


class Run(Protocol):
    """The figures of one run that the picture shows."""

    scenario: str
    contender: str
    processes: int
    accepted_of_allowed: float
    refused_of_accepted: float


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write the picture.

    For each run, it shows which share of the allowed calls was used, and how many were refused.

    Args:
        runs: The runs in the order of the picture; a gap separates scenarios.
        path: The file, which is overwritten.
    """
    parts, y, scenario = [], _TOP, ""
    worst = max([run.refused_of_accepted for run in runs], default=0) or 1
    for run in runs:
        if run.scenario != scenario:
            y, scenario = y + _GAP, run.scenario
        name = f"{run.scenario} · {run.contender} · {run.processes}"
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            _bar(_LEFT, y, run.accepted_of_allowed, run.contender, f"{run.accepted_of_allowed:.3f}")
        )
        refused = run.refused_of_accepted / worst
        parts.append(
            _bar(_LEFT + _WIDTH + 80, y, refused, run.contender, f"{run.refused_of_accepted:.4f}")
        )
        y += _ROW
    titles = (
        f'<text x="{_LEFT}" y="30" class="title">accepted ÷ allowed</text>'
        f'<text x="{_LEFT + _WIDTH + 80}" y="30" class="title">refused ÷ accepted</text>'
        f'<text x="{_LEFT - 8}" y="30" text-anchor="end" class="title">scenario · contender · '
        "processes</text>"
    )
    style = "text{font:11px sans-serif;fill:#111827}.title{font-weight:bold}"
    size = f'width="{_LEFT + 2 * _WIDTH + 160}" height="{y + 20}"'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{titles}{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def _bar(x: int, y: int, share: float, contender: str, label: str) -> str:
    length = round(max(0.0, min(share, 1.05)) * _WIDTH, 1)
    fill = _COLOURS.get(contender, "#6b7280")
    bar = f'<rect x="{x}" y="{y}" width="{length}" height="{_ROW - 4}" fill="{fill}"/>'
    return f'{bar}<text x="{x + length + 4}" y="{y + 11}">{label}</text>'
