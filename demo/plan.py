"""What the demo plays: how many jobs, with which keys and limits, and how the workers are set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OURS = ("GROQ_", "RESEND_", "REDIS_URL", "CELERY_", "KEYWHEEL_", "FLOWER_", "ADMIN_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
_MANY_JOBS = 300
_RESEND_TEAMS = 3
_RESEND_LENGTH_S = 17

MODELS = ("openai/gpt-oss-120b", "openai/gpt-oss-20b")
"""What the completions may be answered by, in order of preference.

The first is switched off in the middle.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        jobs: Completions to ask for.
        emails: Emails to send.
        workers: Worker processes.
        limit_s: The run fails if it is not over by then, set-up included, in seconds.
        keep: Stay up afterwards.
        plain: Lines instead of a live view.
    """

    jobs: int = 600
    emails: int = 200
    workers: int = 2
    limit_s: float = 80.0
    keep: bool = False
    plain: bool = False

    @property
    def pace(self) -> float:
        """How long everything takes, relative to the full demo; a small one is over sooner."""
        return 1.0 if max(self.jobs, self.emails) >= _MANY_JOBS else 0.5

    @property
    def groq_rpm(self) -> int:
        """Requests a minute of one organisation and model, so that the completions take about half a minute.

        A full minute's worth of each model may go at once, the rest as the limits refill.
        """
        return max(10, round(self.jobs * (0.75 if self.pace == 1.0 else 0.14)))

    @property
    def resend_rps(self) -> int:
        """Requests a second of one team."""
        return max(1, round(self.emails / (_RESEND_TEAMS * _RESEND_LENGTH_S * self.pace)))

    def accounts(self) -> dict[str, Any]:
        """The providers' accounts, as the sandbox's keys file has them.

        Four Groq keys, two of which share an organisation (the workers are not told: they learn
        it), and three Resend teams, each with a domain and a from address of its own.
        """
        groq = {"rpm": self.groq_rpm, "rpd": 14_400, "tpm": 250_000, "tpd": 0}
        teams = ("north", "south", "west")
        return {
            "groq": [{"keys": keys} | groq for keys in (2, 1, 1)],
            "resend": [
                {
                    "account": f"team-{team}",
                    "keys": 1,
                    "rps": self.resend_rps,
                    "daily": 0,
                    "monthly": 0,
                    "domains": [f"{team}.example.net"],
                    "from": f"News <news@{team}.example.net>",
                }
                for team in teams
            ],
        }

    def sandbox_options(self) -> dict[str, Any]:
        """How the simulated providers behave."""
        return {
            "groq_latency_ms": 600 * self.pace,
            "groq_jitter_ms": 600 * self.pace,
            "groq_stream_ms": 30,  # so that a page shows a streamed answer word by word
            "resend_latency_ms": 60,
            "resend_jitter_ms": 60,
            # Two cores are shared by everything here: a call that left in time may arrive late.
            "grace_ms": 500,
        }

    def settings(self) -> dict[str, str]:
        """The workers' settings that differ from the defaults.

        Shorter waits, so that a minute shows everything.
        """
        return {
            "GROQ_MODEL": ",".join(MODELS),
            "KEYWHEEL_MAX_WAIT_S": "2",
            "KEYWHEEL_SERVER_ERROR_COOLDOWN_S": "2",
            "KEYWHEEL_GROQ_COOLDOWN_S": "5",
            "KEYWHEEL_RESEND_COOLDOWN_S": "5",
            "KEYWHEEL_FAULT_BACKOFF_S": "0.5",
            "KEYWHEEL_MAX_FAULTS": "10",
            "KEYWHEEL_STATUS_INTERVAL_S": "2",
            # its questions would stand among the calls that are counted
            "KEYWHEEL_CHECK_KEYS_S": "0",
            "KEYWHEEL_LOG_LEVEL": "INFO",
            "KEYWHEEL_LOG_FORMAT": "text",
        }


def clean_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without any setting of this project and without proxies.

    The demo talks to 127.0.0.1 only.
    """
    found = os.environ if environ is None else environ
    kept = {
        name: value
        for name, value in found.items()
        if not name.startswith(_OURS) and name.lower() not in _PROXIES
    }
    return kept | {"NO_PROXY": "*", "no_proxy": "*"}
