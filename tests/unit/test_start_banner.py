"""The start of a worker whose standard output accepts no banner."""

import errno
import os
from pathlib import Path

import pytest

from worker.startup import banner


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_worker_without_a_standard_output_goes_on_and_what_it_writes_later_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def emit() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (tmp_path / "output").open("wb") as output:
        monkeypatch.setattr(banner, "_STDOUT", output.fileno())
        before = open_files()
        banner.survive_closed_output(emit)()
        assert open_files() == before
        os.write(output.fileno(), b"late")
    assert (tmp_path / "output").read_bytes() == b""
    assert caplog.messages == [
        (
            "nothing can be written to the standard output (No space left on device): "
            "the worker goes on without it"
        )
    ]


def test_the_banner_is_written_if_it_can_be() -> None:
    written: list[str] = []
    banner.survive_closed_output(lambda: written.append("banner"))()
    assert written == ["banner"]
    assert banner._STDOUT == 1
