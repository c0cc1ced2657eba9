"""Processes that coverage does not measure."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def unmeasured_children() -> Iterator[None]:
    """Measure nothing of what is started in the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
