"""Counts the waiting jobs that the keys allow soon, because only these need more workers."""

from worker.keypool import PoolView
from worker.keypool.forecast import CallCost, Forecast, usual_tokens

_SOON_S = 30.0
"""About the time until a new worker runs."""


def servable_jobs(view: PoolView, waiting: int, *, jobs_a_call: int) -> int:
    """Return how many of the waiting jobs the keys allow within half a minute.

    Args:
        view: The service's keys.
        waiting: How many jobs wait, without the deferred ones, for which no key is free.
        jobs_a_call: How many jobs one call may carry.
    """
    # The snapshot does not show which models the jobs ask for: assume the one with the most room.
    models = {bucket.model for key in view.keys for bucket in key.buckets} or {""}
    calls = max(
        Forecast(
            view, CallCost(model=model, tokens=usual_tokens(view), emails=jobs_a_call)
        ).calls_within(_SOON_S)
        for model in models
    )
    return round(min(waiting, calls * jobs_a_call))
