"""The plan of a run: how many jobs, which keys and limits, and the settings of the workers."""

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
"""The models for completions, in order of preference; the first is switched off meanwhile."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run.

    Attributes:
        jobs: The number of completions.
        emails: The number of emails.
        workers: The number of worker processes.
        limit_s: How long the run may take before it fails, set-up included, in seconds.
        keep: Whether to keep everything running afterwards.
        plain: Whether to print lines instead of a live view.
    """

    jobs: int = 600
    emails: int = 200
    workers: int = 2
    limit_s: float = 80.0
    keep: bool = False
    plain: bool = False

    @property
    def pace(self) -> float:
        """How long everything takes, relative to the full demo; a small demo ends sooner."""
        return 1.0 if max(self.jobs, self.emails) >= _MANY_JOBS else 0.5

    @property
    def groq_rpm(self) -> int:
        """Requests a minute of one organisation and model.

        At this rate the completions take about half a minute: each model may use its first minute's
        requests at once, and the rest as the limits refill.
        """
        return max(10, round(self.jobs * (0.75 if self.pace == 1.0 else 0.14)))

    @property
    def resend_rps(self) -> int:
        """Requests a second of one team."""
        return max(1, round(self.emails / (_RESEND_TEAMS * _RESEND_LENGTH_S * self.pace)))

    def accounts(self) -> dict[str, Any]:
        """The providers' accounts, as in the sandbox's keys file.

        There are four Groq keys. Two of them share an organisation, which the workers do not know
        at first but learn. There are three Resend teams, each with a domain and a from address.
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
        """The options of the simulated providers."""
        return {
            "groq_latency_ms": 600 * self.pace,
            "groq_jitter_ms": 600 * self.pace,
            "groq_stream_ms": 30,  # so that a page shows a streamed answer word by word
            "resend_latency_ms": 60,
            "resend_jitter_ms": 60,
            # All processes share two cores, so a call that left in time may arrive late.
            "grace_ms": 500,
        }

    def settings(self) -> dict[str, str]:
        """The workers' settings that differ from the defaults, mostly shorter waits."""
        return {
            "GROQ_MODEL": ",".join(MODELS),
            "KEYWHEEL_RETRY_BACKOFF_S": "0.5",
            "KEYWHEEL_MAX_RETRIES": "10",
            # the requests of a check would be counted among the calls
            "KEYWHEEL_CHECK_KEYS_S": "0",
            "KEYWHEEL_LOG_LEVEL": "INFO",
            "KEYWHEEL_LOG_FORMAT": "json",  # its fields feed the timeline
        }


def clean_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without any setting of this project and without proxies.

    The demo connects to 127.0.0.1 only.
    """
    variables = os.environ if environ is None else environ
    kept = {
        name: value
        for name, value in variables.items()
        if not name.startswith(_OURS) and name.lower() not in _PROXIES
    }
    return kept | {"NO_PROXY": "*", "no_proxy": "*"}
