"""An interrupted test run leaves nothing behind."""

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
WAITS = """
import signal
from pathlib import Path

def test_that_waits(redis_server):
    Path("pid").write_text(str(redis_server.pid))
    print("waits", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_run_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_waits.py").write_text(WAITS)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    environ = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert run.stdout is not None
        assert next((line for line in run.stdout if "waits" in line), None), "the run has begun"
        server = os.pidfd_open(int((tmp_path / "pid").read_text()))
        run.send_signal(number)
    try:
        assert select.select([server], [], [], 20)[0], "the server of the ended run has ended"
    finally:
        os.close(server)


def test_a_block_that_fails_waits_for_no_process_that_runs_on() -> None:
    waits = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(ZeroDivisionError), subprocess.Popen(waits) as process:
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGTERM
