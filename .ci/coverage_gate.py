# ruff: noqa: INP001 - a script beside the other scripts, not a package
"""Fails if the tests cover too few lines or too few branches; coverage's own total mixes the two.

Prints nothing if both suffice, so that pytest's summary stays the last output.
"""

import argparse
import contextlib
import io
import json
import sys

from coverage import Coverage


def totals() -> dict[str, int]:
    """Read the sums of the last measured run from its data file."""
    measured = Coverage()
    measured.load()
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        measured.json_report(outfile="-")
    return dict(json.loads(report.getvalue())["totals"])


def main() -> int:
    """Judge the last measured run.

    Returns:
        0 if both shares reach their bounds, else 1. Prints a sentence for each share that does not.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--lines", type=float, required=True, help="lowest share of lines, in percent"
    )
    parser.add_argument(
        "--branches", type=float, required=True, help="lowest share of branches, in percent"
    )
    bounds = parser.parse_args()

    sums = totals()
    too_low = False
    for name, bound, covered, total in (
        ("lines", bounds.lines, sums["covered_lines"], sums["num_statements"]),
        ("branches", bounds.branches, sums["covered_branches"], sums["num_branches"]),
    ):
        share = 100 * covered / total if total else 100.0
        if share < bound:
            sys.stderr.write(
                f"coverage: {share:.1f} % of the {name} are covered, {bound:g} % must be\n"
            )
            too_low = True
    return int(too_low)


if __name__ == "__main__":
    sys.exit(main())
