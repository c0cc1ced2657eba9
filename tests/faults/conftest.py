import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `processes`: test folders are no packages

from processes import StartFleet, fleets


@pytest.fixture(autouse=True, scope="module")
def _unmeasured() -> Iterator[None]:
    """Processes run as fast as they would for a user: what they cover, other tests cover too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture
def start_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFleet]:
    """Starts a Redis, a sandbox and workers, which end with the test."""
    with fleets(lambda: tmp_path_factory.mktemp("fleet")) as start:
        yield start
