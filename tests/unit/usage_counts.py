"""The counts of a series, in the order of its measures."""

from worker.usage import MEASURES


def counts(**some: int) -> tuple[int, ...]:
    return tuple(some.get(name, 0) for name in MEASURES)
