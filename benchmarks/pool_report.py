"""Writes the results of the pool's benchmark as a table, a CSV file and a picture."""

import csv
import statistics
from collections.abc import Iterable
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pool_contenders import REFERENCE
from benchmarks.pool_measure import QuietFigures, Run

RESULTS = Path(__file__).parent / "results"

Runs = dict[tuple[str, str], list[Run]]
"""The rounds by contender and kind of work: `noop`, or `nap` and the number of jobs in flight."""
QuietRuns = dict[str, list[QuietFigures]]
"""The rounds by contender."""

_BAR_PX, _LABEL_PX, _ROW_PX = 420, 190, 24


def show(
    console: Console, runs: Runs, quiet_runs: QuietRuns, *, naps: Iterable[int], waves: int
) -> None:
    """Print the table, and write table, CSV file and picture."""
    names = list(dict.fromkeys([*(name for name, _ in runs), *quiet_runs]))
    heads = [
        "",
        "no-op jobs/s",
        "spread",
        "ratio",
        "CPU ms/job",
        *(f"s/wave, {nap} of 1 s" for nap in naps),
    ]
    heads += ["lag ms", "of it sending", "idle MB", "KB/job in flight"]
    table = Table(title="medians of interleaved rounds, results stored")
    for head in heads:
        table.add_column(head, justify="right" if head else "left")
    rows = [_row(name, runs, quiet_runs, naps=naps, waves=waves) for name in names]
    for row in rows:
        table.add_row(*row)
    Console(width=max(console.width, 150)).print(table)
    console.print(
        f"ratio: no-op jobs a second of {REFERENCE}, divided by those of the contender; median "
        "of the rounds' ratios"
    )
    console.print("lag: from the call that sends a job to its beginning, one job every 20 ms")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "pool.csv").open("w", newline="") as sink:
        csv.writer(sink).writerows([heads, *rows])
    _plot(
        RESULTS / "pool.svg",
        {name: _median(run.rate for run in runs.get((name, "noop"), ())) for name in names},
    )
    console.print(f"written: {RESULTS / 'pool.csv'}, {RESULTS / 'pool.svg'}")


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else 0.0


def _row(
    name: str, runs: Runs, quiet_runs: QuietRuns, *, naps: Iterable[int], waves: int
) -> list[str]:
    noops, quiet = runs.get((name, "noop"), []), quiet_runs.get(name, [])
    rates = [run.rate for run in noops]
    pairs = zip(runs.get((REFERENCE, "noop"), []), noops, strict=False)
    ratios = [ours.rate / peer.rate for ours, peer in pairs if peer.rate]
    row = [
        name,
        f"{_median(rates):.0f}" if rates else "-",
        f"{min(rates):.0f} to {max(rates):.0f}" if rates else "-",
        f"{statistics.median(ratios):.2f}" if ratios else "-",
        f"{_median(run.cpu_ms for run in noops):.2f}" if noops else "-",
    ]
    for nap in naps:
        whole = [run for run in runs.get((name, f"nap {nap}"), []) if run.done >= nap * waves]
        row.append(f"{_median(run.seconds for run in whole) / waves:.2f}" if whole else "-")
    held = [run.job_kb for run in quiet if run.job_kb is not None]
    row += [
        f"{_median(run.lag_ms for run in quiet):.1f}" if quiet else "-",
        f"{_median(run.send_ms for run in quiet):.1f}" if quiet else "-",
        f"{_median(run.idle_mb for run in quiet):.0f}" if quiet else "-",
        f"{_median(held):.1f}" if held else "-",
    ]
    return row


def _plot(path: Path, rates: dict[str, float]) -> None:
    """Draw the rates as bars, the highest first."""
    names = sorted((name for name, rate in rates.items() if rate), key=lambda name: -rates[name])
    most = max((rates[name] for name in names), default=1.0)
    width, height = _LABEL_PX + _BAR_PX + 90, _ROW_PX * (len(names) + 1) + 16
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            'font-family="sans-serif"'
        ),
        f' font-size="13" viewBox="0 0 {width} {height}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        '<text x="8" y="18" font-weight="bold">no-op jobs a second, results stored</text>',
    ]
    for index, name in enumerate(names):
        top = _ROW_PX * (index + 1) + 6
        bar = _BAR_PX * rates[name] / most
        color = "#2563eb" if name == REFERENCE else "#9ca3af"
        lines += [
            f'<text x="{_LABEL_PX - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            (
                f'<rect x="{_LABEL_PX}" y="{top}" width="{bar:.1f}" height="18" rx="2" '
                f'fill="{color}"/>'
            ),
            f'<text x="{_LABEL_PX + bar + 6:.1f}" y="{top + 14}">{rates[name]:,.0f}</text>',
        ]
    path.write_text("\n".join([*lines, "</svg>", ""]))
