"""`python -m demo`: keys rotate under load, on this machine, without keys or network."""

import argparse
import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_DESCRIPTION = """\
The demo starts Redis, a simulation of both providers, worker processes and Flower on 127.0.0.1,
and enqueues completions and emails. Meanwhile the providers limit, refuse and revoke keys. The
demo shows how the workers react, and cleans up.
"""
_EPILOG = """\
The exit code is 0 if every job ended as it should and nothing is left behind, 1 if not, 130 after
Ctrl-C and 143 after SIGTERM. If REDIS_URL is set, the demo uses an empty database of that Redis
instead of starting one, and empties it afterwards. It ignores all other settings, and .env.
"""


def _leave_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's
    # Importing takes a second, and no process has to be stopped yet.
    os.write(2, b"\ndemo: stopped before anything was started\n")
    os._exit(128 + number)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--jobs",
        type=_positive,
        default=600,
        metavar="N",
        help="number of completions (default: %(default)s)",
    )
    add(
        "--emails",
        type=_positive,
        default=200,
        metavar="N",
        help="number of emails (default: %(default)s)",
    )
    add(
        "--workers",
        type=_positive,
        default=2,
        metavar="N",
        help="number of worker processes (default: %(default)s)",
    )
    add(
        "--seconds",
        type=_positive,
        default=80,
        metavar="N",
        help="fail if jobs are unfinished after N seconds (default: %(default)s)",
    )
    add(
        "--keep",
        action="store_true",
        help="keep everything running until Ctrl-C, to explore Flower",
    )
    add(
        "--plain",
        action="store_true",
        help="print lines instead of a live view; the default if the output is not a terminal",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    for number in SIGNALS:
        signal.signal(number, _leave_at_once)
    given = make_parser().parse_args(arguments)
    from demo.plan import Plan  # noqa: PLC0415 - after the handlers: importing takes a while
    from demo.run import run  # noqa: PLC0415

    plan = Plan(
        jobs=given.jobs,
        emails=given.emails,
        workers=given.workers,
        limit_s=given.seconds,
        keep=given.keep,
        plain=given.plain,
    )
    return run(plan, signals=SIGNALS)


if __name__ == "__main__":
    sys.exit(main())
