"""A long drill that finds what grows."""

import statistics
import time

from benchmarks.drills.drill import Drill, Scale, Site

_LOAD = 0.8
_RPM, _RPS = 900, 4
_ACCOUNTS = {
    "groq": [
        {"account": f"org_{n}", "keys": 1, "rpm": _RPM, "rpd": 0, "tpm": 0, "tpd": 0}
        for n in range(2)
    ],
    "resend": [
        {"account": f"team-{n}", "keys": 1, "rps": _RPS, "daily": 0, "monthly": 0,
         "domains": [f"team-{n}.example.net"]}
        for n in (1, 2)
    ],
}  # fmt: skip
COMPLETIONS_A_S = _LOAD * 2 * _RPM / 60
EMAILS_A_S = _LOAD * 2 * _RPS
_MOST_GROWTH_MB = 30.0
_WARM = 0.2
"""The samples of memory that are compared begin here: by then every cache is warm."""
_MOST_REFUSED = 0.01


def soak(site: Site) -> None:
    """Jobs come at 80 % of what the keys allow, for an hour (`--trouble S`: for S seconds)."""
    began_s, total, sent = time.monotonic(), len(site.unsent), 0
    site.recovered()
    while site.unsent:
        due = round(min(1.0, (time.monotonic() - began_s) / site.scale.trouble_s) * total)
        if due > sent:
            site.send((due - sent) / len(site.unsent))
            sent = due
        site.pass_time(0.5)
    held = site.worker_mb[int(len(site.worker_mb) * _WARM) :]
    tenth = max(1, len(held) // 10)
    growth_mb = statistics.median(held[-tenth:]) - statistics.median(held[:tenth])
    half = statistics.median(held[len(held) // 2 :][:tenth])
    late_mb = statistics.median(held[-tenth:]) - half
    site.notes["growth"] = f"{growth_mb:.1f} MB a worker, {late_mb:.1f} of them in the second half"
    if growth_mb > _MOST_GROWTH_MB:
        site.broken.append(f"a worker grew by {growth_mb:.0f} MB")
    services = site.stack.sandbox.ledger()["services"]
    refused = sum(book["by_status"].get("429", 0) for book in services.values()) / max(
        1, site.calls
    )
    site.notes["refused"] = f"{refused:.2%}"
    if refused > _MOST_REFUSED:
        site.broken.append(f"{refused:.1%} of the calls were refused")


def _scale(seconds: float) -> Scale:
    return Scale(
        round(COMPLETIONS_A_S * seconds), round(EMAILS_A_S * seconds), seconds, limit_s=120
    )


DRILLS = (
    Drill(
        "soak",
        soak,
        full=_scale(3_600),
        accounts=_ACCOUNTS,
        silence_s=10,
    ),
)
