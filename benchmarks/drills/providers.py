"""Drills in which the providers serve no call."""

import time

from benchmarks.drills.drill import Drill, Scale, Site

_SERVICES = ("groq", "resend")
_PART = 1_000
"""The number of jobs sent between two samples."""
_MOST_ASKED_A_S = 8
"""The highest rate of calls, to both providers together, that probe whether they are back."""


def provider_down(site: Site) -> None:
    """Both providers answer every call with 500, but Resend accepts the email.

    The workers' settings compress an hour into a minute: rests and retries are shorter by that
    factor.
    """
    site.send(0.5)
    site.await_calls()
    seconds = site.scale.trouble_s
    site.control("fault", service="groq", seconds=seconds, status=500)
    site.control("fault", service="resend", seconds=seconds, kind="error_after", status=500)
    site.send()
    before = site.calls
    site.pass_time(seconds)
    site.recovered()
    calls = site.calls - before
    site.notes["calls in the outage"] = calls
    allowed = len(site.jobs) + _MOST_ASKED_A_S * seconds
    if calls > allowed:
        site.broken.append(f"{calls} calls in an outage of {seconds:.0f} s, above {allowed:.0f}")


def keys_out(site: Site) -> None:
    """Every key of both providers has used up its quota, and all jobs wait for the next day.

    The sandbox tells the clients how long that is, so a day can be a minute.
    """
    until_s = time.monotonic() + site.scale.trouble_s
    for service in _SERVICES:
        site.control("exhaust", service=service, seconds=site.scale.trouble_s)
    while site.unsent:
        site.send(min(1.0, _PART / len(site.unsent)))
        site.watch()
    site.pass_time(until_s - time.monotonic())
    site.recovered()
    site.notes["calls while out"] = site.calls_until(until_s)


DRILLS = (
    Drill(
        "provider-down",
        provider_down,
        full=Scale(600, 300, trouble_s=60, limit_s=120),
        short=Scale(60, 30, trouble_s=3, limit_s=40),
    ),
    Drill(
        "keys-out",
        keys_out,
        full=Scale(70_000, 30_000, trouble_s=90, limit_s=1_500),
        short=Scale(60, 30, trouble_s=3, limit_s=40),
    ),
)
