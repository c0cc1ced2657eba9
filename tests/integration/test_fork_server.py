"""A fork is to a test what a process of its own interpreter would be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import Fork, can_fork

TELLS = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["WORD"], os.getsid(0) == os.getpid(), __name__)
print("celery" in sys.modules, "worker" in sys.modules)
sys.exit("ends")
"""
WAITS = "import signal\nsignal.pause()\n"


def start(folder: Path, module: str, *arguments: str) -> tuple[Fork, Path]:
    (folder / "tells.py").write_text(TELLS)
    (folder / "waits.py").write_text(WAITS)
    log = folder / "log"
    with log.open("wb") as sink:
        process = Fork(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env={**os.environ, "WORD": folder.name},
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, log


def test_a_fork_has_its_own_arguments_folder_environment_and_session(tmp_path: Path) -> None:
    process, log = start(tmp_path, "tells", "-n", "x")
    assert process.wait(20) == process.poll() == 1
    assert log.read_text().splitlines() == [
        f"['-n', 'x'] {tmp_path} {tmp_path.name} True __main__",
        "True False",
        "ends",
    ]


def test_a_fork_is_signalled_waited_for_and_says_what_ended_it(tmp_path: Path) -> None:
    process, _ = start(tmp_path, "waits")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0)
    process.kill()
    assert process.wait(20) == -signal.SIGKILL
    process.kill()  # as with any process that has ended: nothing happens


@pytest.mark.parametrize(
    "change",
    [
        {"COVERAGE_PROCESS_CONFIG": "{}"},  # it would not be measured
        {"SSL_CERT_FILE": "/nowhere"},  # read when aiohttp is imported
        {"PYTHONWARNINGS": "error::UserWarning"},  # read by the interpreter
    ],
)
def test_what_is_read_at_the_start_of_a_process_takes_a_new_one(change: dict[str, str]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVER")}
    assert can_fork(environ) == (sys.platform == "linux")
    assert not can_fork(environ | change)
