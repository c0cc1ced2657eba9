"""Everything breaks at once: the short version of `python -m benchmarks.drills chaos`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

LONGEST_S = 110


def test_nothing_is_lost_and_no_email_goes_twice_while_everything_breaks(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.drills",
        "chaos",
        "--quick",
        "--results",
        str(tmp_path / "results"),
    ]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "output"
    with (
        output.open("wb") as sink,
        subprocess.Popen(command, env=environ, stdout=sink, stderr=sink) as chaos,
    ):
        code = chaos.wait(LONGEST_S)  # when it is asked to end, it ends its processes
    assert code == 0, output.read_text(errors="replace")[-6000:]
