"""No job is lost and no email is sent twice while everything breaks at once.

`python -m benchmarks.drills chaos`.

Real workers serve emails and completions while they are killed (SIGKILL) and replaced. Redis is
restarted twice, hangs once, and loses its scripts and the pool's state of the keys. Calls are cut
or answered 5xx before and after the provider accepted them. Keys are revoked, one account reaches
its daily quota, and some messages are delivered twice. The judges are the provider sandbox's ledger
and the result store.

The exit status is 1 if a promise was broken: a job lost or stuck, an email accepted twice (by any
accounts), an email accepted although its job failed (other than with OutcomeUnknown), a final state
that changed, a worker that ended by itself, or a failure without a true reason.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.drills.chaos_run import Run
from benchmarks.drills.stack import FAULTS, accounts, run_stack, settings

RESULTS = Path(__file__).parents[1] / "results"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drills chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="300 emails, 150 completions, 2 workers, well under a minute",
    )
    add("--emails", type=int, help="default: 10000")
    add("--completions", type=int, help="default: 5000")
    add("--workers", type=int, help="default: 4")
    add("--rate", type=float, help="jobs enqueued a second (default: 75)")
    add(
        "--kill-every",
        type=float,
        metavar="S",
        help="mean time between two kills in seconds (default: 8)",
    )
    add(
        "--twice",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="messages published twice (default: %(default)s)",
    )
    add(
        "--quota",
        type=int,
        help="emails a day that the third team may send (default: a tenth of the emails)",
    )
    add(
        "--rps",
        type=int,
        default=60,
        help="calls a second that each team may make (default: %(default)s); few: batches",
    )
    add(
        "--away",
        type=float,
        default=2.0,
        metavar="S",
        help="how long Redis is away or hangs (default: %(default)s)",
    )
    add("--minutes", type=float, help="minutes after which unfinished jobs are stuck (default: 10)")
    add(
        "--deadline",
        type=int,
        metavar="S",
        help="each job's deadline in seconds (default: half of the time)",
    )
    add("--visibility", type=int, metavar="S", help="visibility timeout in seconds (default: 60)")
    add(
        "--lease",
        type=int,
        metavar="S",
        help="worker lease in seconds, if the version has this setting (default: 10)",
    )
    add(
        "--seed",
        type=int,
        default=1,
        help="makes jobs and trouble repeatable, though not their timing (default: 1)",
    )
    add("--keep", type=Path, metavar="FOLDER", help="leave the workers' logs and Redis' data there")
    add(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="folder for the figures (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    if args.keep and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(
            f"--keep {args.keep}: is not empty"
        )  # another run's Redis would know these jobs
    long = {
        "emails": 10_000,
        "completions": 5_000,
        "workers": 4,
        "rate": 75,
        "kill_every": 8,
        "minutes": 10,
    }
    long |= {"visibility": 60, "lease": 10}
    quick = {
        "emails": 300,
        "completions": 150,
        "workers": 2,
        "rate": 45,
        "kill_every": 4,
        "minutes": 1.5,
    }
    quick |= {"visibility": 40, "lease": 5}
    for name, value in (quick if args.quick else long).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.quota is None:
        args.quota = args.emails // 10
    if args.deadline is None:
        args.deadline = round(args.minutes * 30)
    return args


def main(arguments: list[str]) -> int:
    """Run the drill; return 1 if a promise was broken."""
    args = parse(arguments)
    say = Console(width=max(140, Console().width))
    with tempfile.TemporaryDirectory(prefix="keywheel-chaos-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        environ = settings(
            visibility_s=args.visibility, lease_s=args.lease, deadline_s=args.deadline
        )
        say.print(
            f"{args.emails} emails, {args.completions} completions, {args.workers} workers, seed "
            f"{args.seed}"
        )
        with run_stack(
            folder,
            workers=args.workers,
            accounts=accounts(quota=args.quota, rps=args.rps),
            settings=environ,
            seed=args.seed,
        ) as opened:
            for words, fault in FAULTS:
                opened.sandbox.control("fault", service="groq", **fault)
                opened.sandbox.control("fault", service="resend", **fault)
                say.print(f"  {words}", highlight=False)
            run = Run(args, opened, say)
            if not run.go():
                say.print(f"the time is over: {len(run.open)} jobs have not ended")
            report = run.report()
    args.results.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) for name, value in vars(args).items()}
    report |= {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "arguments": given}
    with (args.results / "chaos.jsonl").open("a") as log:
        log.write(json.dumps(report) + "\n")
    return 1 if report["broken"] else 0
