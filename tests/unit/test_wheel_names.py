"""The wheel's build moves the names of our modules below `keywheel`."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("one_package", ROOT / ".ci/wheel/one_package.py")
assert _SPEC is not None
assert _SPEC.loader is not None
one_package = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(one_package)


def moved(source: str) -> str:
    return str(one_package.move_names(source.encode(), root=ROOT, file=Path("x.py")).decode())


@pytest.mark.parametrize(
    ("checkout", "wheel"),
    [
        ("from config import keys", "from keywheel.config import keys"),
        ("    from worker.errors import JobError  # worker.errors", ""),
        ("import worker", "from keywheel import worker"),
        ("import worker.errors as errors", "import keywheel.worker.errors as errors"),
        ("import os, worker.errors as e", "import os, keywheel.worker.errors as e"),
        ("from . import config", "from . import config"),
        ("from workers import config", "from workers import config"),
        ("é = 'é'; from worker import app", "é = 'é'; from keywheel.worker import app"),
        ("A = 'worker.aio.pool:TaskPool'", "A = 'keywheel.worker.aio.pool:TaskPool'"),
        ("A = f\"{x}\" 'worker.aio:B+redis://'", "A = f\"{x}\" 'keywheel.worker.aio:B+redis://'"),
        ("A = files('worker.aio')", "A = files('keywheel.worker.aio')"),
        # Names of tasks stay, and so do texts that only look like a module.
        ("A = 'tasks.ai', 'tasks.ai.complete'", "A = 'tasks.ai', 'tasks.ai.complete'"),
        ("A = 'worker', 'worker.nothing', 'config'", "A = 'worker', 'worker.nothing', 'config'"),
        ("A = 'see `celery -A worker dead`'", "A = 'see `celery -A keywheel dead`'"),
        ("A = 'python -m worker'", "A = 'python -m keywheel'"),
        ("A = 'python -m worker.'", "A = 'python -m keywheel.'"),
        ("A = 'python -m worker.x'", "A = 'python -m keywheel.worker.x'"),
        ("A = 'python -m sandbox'", "A = 'python -m keywheel.sandbox'"),
        ("A = 'celery -A workers'", "A = 'celery -A workers'"),
    ],
)
def test_a_module_of_ours_is_named_below_keywheel(checkout: str, wheel: str) -> None:
    if checkout.startswith(" "):
        checkout, wheel = (
            f"def f():\n{checkout}",
            "def f():\n    from keywheel.worker.errors import JobError  # worker.errors",
        )
    assert moved(checkout) == wheel


@pytest.mark.parametrize(
    "source", ["import worker.errors", "import os, worker", "A = 'worker.' 'errors'"]
)
def test_a_form_that_cannot_be_moved_ends_the_build(source: str) -> None:
    with pytest.raises(ValueError, match=r"x\.py:1: the wheel cannot move"):
        moved(source)
