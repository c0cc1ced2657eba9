"""Drills in which workers die, stop for a while, or have a wrong clock."""

import signal
from pathlib import Path

from benchmarks.drills.drill import Drill, Scale, Site

_FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def kill_all(site: Site) -> None:
    """All workers are killed at once and started again."""
    site.send()
    site.await_calls()
    for slot in site.stack.slots:
        site.stack.kills += slot.running
        slot.kill()
    site.pass_time(site.scale.trouble_s)
    site.stack.fill()
    site.stack.await_ready()
    site.recovered()


def kill_one_with_deferred_jobs(site: Site) -> None:
    """A worker is killed while all keys rest: another worker does its jobs and its deferrals."""
    for service in ("groq", "resend"):
        site.control("exhaust", service=service, seconds=site.scale.trouble_s)
    slot = site.stack.slots[0]
    before = _deferrals(slot.log)
    site.send()
    site.until(lambda: _deferrals(slot.log) > before, within_s=30, what="a deferral by the worker")
    site.stack.kills += 1
    slot.kill()
    site.pass_time(site.scale.trouble_s)
    site.recovered()
    site.stack.fill()


def _deferrals(log: Path) -> int:
    return log.read_bytes().count(b"Deferred(")


def freeze_one(site: Site) -> None:
    """A worker stops for longer than its lease and goes on: other workers do its jobs."""
    site.send(0.8)
    site.await_calls()
    frozen = site.stack.slots[0]
    frozen.signal(signal.SIGSTOP)
    try:
        site.recovered()  # the other workers have keys and jobs all the time
        site.send()
        site.pass_time(site.scale.trouble_s)
    finally:
        frozen.signal(signal.SIGCONT)


def clocks_apart(site: Site) -> None:
    """One worker's clock is an hour ahead, the other's an hour behind, while keys rest."""
    for slot, shift in zip(site.stack.slots, ("+3600", "-3600"), strict=False):
        site.stack.dismiss(slot)
        slot.environ = {
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME": shift,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
    site.stack.fill()
    site.stack.await_ready()
    site.send(0.5)
    site.await_calls()
    for service in ("groq", "resend"):
        site.control("exhaust", service=service, seconds=site.scale.trouble_s)
    site.send()
    site.pass_time(site.scale.trouble_s)
    site.recovered()


DRILLS = (
    Drill(
        "kill-all",
        kill_all,
        full=Scale(2_000, 500, trouble_s=10, limit_s=180),
        short=Scale(60, 30, trouble_s=0, limit_s=60),
        # The leases of the dead workers have to end first.
        silence_s=30,
    ),
    Drill(
        "kill-deferred",
        kill_one_with_deferred_jobs,
        full=Scale(1_000, 300, trouble_s=20, limit_s=180),
        short=Scale(40, 20, trouble_s=4, limit_s=60),
        silence_s=20,
    ),
    Drill(
        "freeze-one",
        freeze_one,
        full=Scale(2_000, 500, trouble_s=30, limit_s=180),
        short=Scale(60, 30, trouble_s=5, limit_s=60),
        silence_s=20,
    ),
    Drill(
        "clocks-apart",
        clocks_apart,
        full=Scale(1_000, 300, trouble_s=20, limit_s=180),
        settings={"KEYWHEEL_DEADLINE_S": "86400"},
        missing=lambda: "" if _FAKETIME else "libfaketime is not installed (Debian: libfaketime)",
    ),
)
