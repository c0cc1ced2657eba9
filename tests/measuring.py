"""Keeps processes out of the measurement of coverage."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def unmeasured_children() -> Iterator[None]:
    """Measure no coverage in processes that are started in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
