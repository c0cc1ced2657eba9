"""Drills: failures of an installation, made for real and judged by the sandbox's ledger.

`python -m benchmarks.drills list` names the drills, `python -m benchmarks.drills NAME` runs one.
"""
