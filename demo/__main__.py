"""`python -m demo`: keys rotate under load, on this machine, without a key or a network."""

import argparse
import os
import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_DESCRIPTION = """\
Starts a Redis, both providers simulated, worker processes and Flower on 127.0.0.1, enqueues completions and emails,
lets keys be rate-limited, refused and revoked meanwhile, shows what the workers make of it, and cleans up.
"""
_EPILOG = """\
Exit code: 0 if every job ended as it should and nothing is left behind, 1 if not, 130 after Ctrl-C (143 after SIGTERM).
REDIS_URL, if set, names a Redis to use instead of one of our own: the demo takes an empty database there and empties
it afterwards. All other settings, and .env, are ignored.
"""


def _leave_at_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    # Importing takes a second, and nothing runs yet that would have to be stopped.
    os.write(2, b"\ndemo: stopped before anything was started\n")
    os._exit(128 + number)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
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
        help="completions to ask for (default: %(default)s)",
    )
    add(
        "--emails",
        type=_positive,
        default=200,
        metavar="N",
        help="emails to send (default: %(default)s)",
    )
    add(
        "--workers",
        type=_positive,
        default=2,
        metavar="N",
        help="worker processes (default: %(default)s)",
    )
    add(
        "--seconds",
        type=_positive,
        default=80,
        metavar="N",
        help="fail if jobs are open then (default: %(default)s)",
    )
    add(
        "--keep",
        action="store_true",
        help="stay up afterwards, so that Flower can be explored, until Ctrl-C",
    )
    add(
        "--plain",
        action="store_true",
        help="lines instead of a live view, as when the output is no terminal",
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
