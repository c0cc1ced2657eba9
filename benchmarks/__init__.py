"""What is measured, each by `python -m benchmarks.NAME`; the README says what."""
