"""The benchmarks, each run by `python -m benchmarks.NAME`; the README describes them."""
