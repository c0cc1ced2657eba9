"""The garbage collector waits while modules are imported."""

import gc
from collections.abc import Iterator

import pytest

from worker.startup.collector import collector_paused

_OLDEST = 2


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()


class Module:
    """A stand-in for the objects that an import makes."""


def test_nothing_is_collected_in_the_block_and_it_goes_on_after_it() -> None:
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_goes_on_after_a_failed_import_too() -> None:
    with pytest.raises(ImportError), collector_paused():
        raise ImportError
    assert gc.isenabled()


def test_it_stays_off_if_it_was_off_before() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_what_the_block_made_is_among_the_oldest_objects() -> None:
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    try:
        with collector_paused():
            module = Module()
        assert any(kept is module for kept in gc.get_objects(_OLDEST))
        assert gc.get_freeze_count() == 0
    finally:
        if frozen:
            gc.freeze()


def test_what_a_program_froze_stays_frozen() -> None:
    frozen = [object()]
    gc.freeze()
    with collector_paused():
        pass
    assert not any(kept is frozen for kept in gc.get_objects())
