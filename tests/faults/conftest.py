from collections.abc import Iterator

import pytest

from tests.fleets import StartFleet, fleets


@pytest.fixture(autouse=True, scope="module")
def _unmeasured(unmeasured_processes: None) -> None:
    """Measure no coverage: the tests of this folder check the whole program."""


@pytest.fixture
def start_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartFleet]:
    """Starts a Redis, a sandbox and workers, which end with the test."""
    with fleets(lambda: tmp_path_factory.mktemp("fleet")) as start:
        yield start
