import subprocess
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="package")
def _nothing_is_started() -> Iterator[None]:
    """What starts a process belongs in another folder: these tests are run after each change."""

    def refuse(self: "subprocess.Popen[Any]", *args: Any, **_: Any) -> None:
        pytest.fail(f"a unit test starts {args}: move it to tests/integration/")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        yield
