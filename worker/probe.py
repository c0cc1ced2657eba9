"""`python -m worker.probe FILE` reports by its exit status whether a worker runs.

It reads only the file of `KEYWHEEL_HEARTBEAT_PATH`, so a worker that waits for Redis counts as
alive. It imports only modules of the standard library, because a probe is started very often.
"""

import argparse
import sys
import time
from pathlib import Path


def main() -> None:
    """Check the file; exit with 1 and a sentence if the worker is not alive, or not ready."""
    parser = argparse.ArgumentParser(prog="python -m worker.probe")
    parser.add_argument("file", type=Path, help="the path in KEYWHEEL_HEARTBEAT_PATH")
    parser.add_argument(
        "--within-s", type=float, default=30, help="how old its last heartbeat may be; default: 30"
    )
    parser.add_argument(
        "--ready",
        action="store_true",
        help="also require that the worker takes jobs and reaches Redis",
    )
    options = parser.parse_args()
    sys.exit(problem(options.file, within_s=options.within_s, ready=options.ready))


def problem(file: Path, *, within_s: float, ready: bool) -> str | None:
    """Describe what is wrong with a worker; None if nothing is.

    Args:
        file: The file that `KEYWHEEL_HEARTBEAT_PATH` names.
        within_s: How old the last heartbeat may be, in seconds.
        ready: Whether the worker must also take jobs.
    """
    try:
        age_s = time.time() - file.stat().st_mtime
        text = file.read_text()
    except OSError as exc:
        return f"no heartbeat: {exc}"
    if age_s > within_s:
        return f"the last heartbeat is {age_s:.0f} s old: the worker stands still"
    if ready and text != "ready\n":
        return "the worker takes no jobs: it has not started yet, or Redis does not answer"
    return None


if __name__ == "__main__":
    main()
