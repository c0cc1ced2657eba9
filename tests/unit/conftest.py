import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from config.current import get_settings


@pytest.fixture(autouse=True, scope="package")
def _nothing_is_started() -> Iterator[None]:
    """Forbid processes, because these tests run after each change and have to be fast."""

    def refuse(self: "subprocess.Popen[Any]", *args: Any, **_: Any) -> None:
        pytest.fail(f"a unit test starts {args}: move it to tests/integration/")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", refuse)
        yield


@pytest.fixture
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment without settings, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(
            ("GROQ_", "RESEND_", "REDIS_", "CELERY_", "KEYWHEEL_", "FLOWER_", "ADMIN_")
        ):
            monkeypatch.delenv(name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()
