"""How long a scope rests: one policy decides."""

import pytest

from config.settings import Settings
from worker.keypool import CooldownPolicy
from worker.verdicts import Cooldown, Fate, Verdict

POLICY = CooldownPolicy(limit_ms=60_000, server_error_ms=5_000)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


# The reason of the rest, the time that the provider states, and the length of the rest.
@pytest.mark.parametrize(
    ("cooldown", "stated_ms", "rest_ms"),
    [
        (Cooldown.LIMIT, None, 60_000),
        (Cooldown.LIMIT, 7_000, 7_000),
        (Cooldown.LIMIT, -1, 0),
        (Cooldown.SERVER_ERROR, None, 5_000),
        (Cooldown.SERVER_ERROR, 9_000, 9_000),
        (Cooldown.HOURLY_PROBE, None, HOUR_MS),
        (Cooldown.HOURLY_PROBE, 10 * DAY_MS, HOUR_MS),  # a person may end it earlier
        (Cooldown.HOURLY_PROBE, 60_000, 60_000),
        (Cooldown.DAILY_PROBE, None, DAY_MS),
    ],
)
def test_a_scope_rests_as_the_provider_states_or_as_the_policy_says(
    cooldown: Cooldown, stated_ms: int | None, rest_ms: int
) -> None:
    verdict = Verdict(Fate.NEXT_KEY, "x", cooldown=cooldown, cooldown_ms=stated_ms)
    assert POLICY.rest_ms(verdict) == rest_ms


@pytest.mark.parametrize(("cooldown_s", "server_error_s"), [(60, 5), (5, 5), (0.3, 0.3)])
def test_after_a_server_error_a_key_rests_no_longer_than_after_a_refusal(
    cooldown_s: float, server_error_s: float
) -> None:
    settings = Settings(services={"groq": {"cooldown_s": cooldown_s}})
    assert settings.services["groq"].server_error_cooldown_s == server_error_s
