"""Decides how long a scope rests. A verdict says only which scope rests and why."""

from dataclasses import dataclass

from worker.verdicts import Cooldown, Verdict

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class CooldownPolicy:
    """The rests of one service's scopes, in milliseconds.

    Attributes:
        limit_ms: The rest after a refusal for a limit, if the provider states none. In a worker it
            is the setting `KEYWHEEL_…_COOLDOWN_S`.
        server_error_ms: The rest after an error of the provider's servers. In a worker it is
            `ServiceSettings.server_error_cooldown_s`.
        hourly_probe_ms: The rest after a refusal that a person or the provider may lift at any
            time. After it, one call finds out.
        daily_probe_ms: The rest after a refusal that is rarely lifted within a day.
    """

    limit_ms: int = 60_000
    server_error_ms: int = 5_000
    hourly_probe_ms: int = _HOUR_MS
    daily_probe_ms: int = 24 * _HOUR_MS

    def rest_ms(self, verdict: Verdict) -> int:
        """Return how long a verdict's scope rests.

        A rest that the provider states takes precedence, but a probe never waits longer than its
        interval.
        """
        match verdict.cooldown:
            case Cooldown.LIMIT:
                default_ms = self.limit_ms
            case Cooldown.SERVER_ERROR:
                default_ms = self.server_error_ms
            case Cooldown.HOURLY_PROBE:
                default_ms = self.hourly_probe_ms
            case Cooldown.DAILY_PROBE:
                default_ms = self.daily_probe_ms
        if verdict.cooldown_ms is None:
            return default_ms
        stated_ms = max(0, verdict.cooldown_ms)
        probes = verdict.cooldown in {Cooldown.HOURLY_PROBE, Cooldown.DAILY_PROBE}
        return min(stated_ms, default_ms) if probes else stated_ms
