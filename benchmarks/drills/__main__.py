"""`python -m benchmarks.drills NAME …`: break something, and judge what became of the jobs.

Each drill prints one line: jobs lost, emails accepted twice, jobs stuck, how long no call was made
although jobs waited and keys were free, and memory. The exit status is 1 if a promise was broken.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.drills import chaos, providers, redis_troubles, soak, versions, workers
from benchmarks.drills.drill import Drill, Outcome, Scale, Site
from benchmarks.drills.stack import Stack, accounts, run_stack, settings

DRILLS: dict[str, Drill] = {
    drill.name: drill
    for module in (providers, redis_troubles, workers, versions, soak)
    for drill in module.DRILLS
}
CHAOS = "chaos"
"""The drill in which everything breaks at once; it has options of its own."""
_WORKERS = 2


@contextmanager
def open_stack(folder: Path, drill: Drill) -> Iterator[Stack]:
    """Start Redis, the providers and workers for a drill and others with the same needs."""
    # An outage must cost no retry. If it did, these three would soon be used up.
    wanted = settings(visibility_s=60, lease_s=3, deadline_s=1_800)
    wanted |= {"KEYWHEEL_MAX_RETRIES": "3", "KEYWHEEL_RESEND_TIMEOUT_S": "2"}
    with run_stack(
        folder,
        workers=_WORKERS,
        accounts=drill.accounts or accounts(quota=0, rps=60),
        settings=wanted | drill.settings,
        seed=1,
    ) as opened:
        yield opened


def rehearse(opened: Stack, drill: Drill, scale: Scale, **options: str) -> Outcome:
    """Run one drill and judge it."""
    site = Site(opened, drill, scale, options=options)
    drill.act(site)
    return site.finish()


def _by_stack(drills: Iterable[Drill]) -> list[list[Drill]]:
    """Group drills that can share workers, because their settings and accounts are the same."""

    def needs(drill: Drill) -> str:
        return repr((drill.settings, drill.accounts))

    return [list(group) for _, group in groupby(sorted(drills, key=needs), key=needs)]


def run(drills: list[Drill], args: argparse.Namespace) -> bool:
    """Run drills one after the other; return whether every promise held."""
    good = True
    with tempfile.TemporaryDirectory(prefix="keywheel-drills-") as temporary:
        for number, group in enumerate(_by_stack(drills)):
            with open_stack((args.keep or Path(temporary)) / str(number), group[0]) as opened:
                for drill in group:
                    outcome = rehearse(opened, drill, _scale(drill, args), revision=args.revision)
                    print(outcome.line, flush=True)
                    for sentence in outcome.broken:
                        print(f"  BROKEN  {sentence}", flush=True)
                    good = good and not outcome.broken
    return good


def _scale(drill: Drill, args: argparse.Namespace) -> Scale:
    scale = drill.short if args.short and drill.short else drill.full
    if args.trouble is not None:
        factor = args.trouble / scale.trouble_s if drill is DRILLS["soak"] else 1.0
        scale = replace(
            scale,
            trouble_s=args.trouble,
            completions=round(scale.completions * factor),
            emails=round(scale.emails * factor),
        )
    if args.jobs is not None:
        share = args.jobs / (scale.completions + scale.emails)
        completions = round(scale.completions * share)
        scale = replace(scale, completions=completions, emails=args.jobs - completions)
    return scale


def _parse(arguments: list[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {drill.name:<15} {drill.summary}" for drill in DRILLS.values())
    listed += f"\n  {CHAOS:<15} {chaos.__doc__.splitlines()[0]} `{CHAOS} --help` has its options."
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drills",
        description=f"{__doc__}\nDrills:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="drills, `all` but chaos, or `list`"
    )
    parser.add_argument("--short", action="store_true", help="small, as in CI; skips the long ones")
    parser.add_argument("--trouble", type=float, metavar="S", help="how long the trouble lasts")
    parser.add_argument("--jobs", type=int, help="how many jobs")
    parser.add_argument(
        "--revision",
        default=versions.DEFAULT_REVISION,
        help="upgrade: the other version, as git names it (default: %(default)s)",
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs and data there")
    args = parser.parse_args(arguments)
    if unknown := set(args.names) - {*DRILLS, "all", "list"}:
        parser.error(f"no such drill: {', '.join(sorted(unknown))}; `list` names them")
    if args.keep and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(f"--keep {args.keep}: is not empty")
    return args


def main(arguments: list[str]) -> int:
    """Run the drills of the command line; return 1 if a promise was broken, 2 if none was run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))  # so that `finally` ends all processes
    if arguments[:1] == [CHAOS]:
        return chaos.main(arguments[1:])
    args = _parse(arguments)
    if "list" in args.names:
        for drill in DRILLS.values():
            print(f"{drill.name:<15} {drill.summary}")
        return 0
    wanted = list(DRILLS) if "all" in args.names else list(dict.fromkeys(args.names))
    drills = []
    for drill in map(DRILLS.__getitem__, wanted):
        lack = "it has no short form" if args.short and drill.short is None else drill.missing()
        if lack:
            print(f"{drill.name:<16} not run: {lack}")
        else:
            drills.append(drill)
    if not drills:
        return 2
    return 0 if run(drills, args) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
