"""How long a scope rests. A verdict says only what rests and why."""

from dataclasses import dataclass

from worker.verdicts import Cooldown, Verdict

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class CooldownPolicy:
    """How long a scope of one service rests, in milliseconds.

    Attributes:
        limit_ms: After a refusal for a limit, if the provider does not say how long. In a worker
            it is the setting.
        server_error_ms: After an error of the provider's servers. In a worker it is
            `ServiceSettings.server_error_cooldown_s`.
        hourly_probe_ms: After a refusal that a person or the provider may lift at any time; then
            one call finds out.
        daily_probe_ms: The same for what is rarely lifted within a day.
    """

    limit_ms: int = 60_000
    server_error_ms: int = 5_000
    hourly_probe_ms: int = _HOUR_MS
    daily_probe_ms: int = 24 * _HOUR_MS

    def rest_ms(self, verdict: Verdict) -> int:
        """Return how long a verdict's scope rests.

        What the provider states wins, but a probe does not wait for longer than its interval.
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
