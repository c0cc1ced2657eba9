"""Runs the server of an example as a process."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.processes import eventually


@dataclass
class Program:
    """A server that runs beside the tests."""

    process: subprocess.Popen[bytes]
    log_path: Path
    url: str = ""

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def await_url(self) -> str:
        """Wait until the server logs its address."""
        address_re = re.compile(r"http://127\.0\.0\.1:([1-9]\d*)")
        eventually(
            lambda: address_re.search(self.log) or self.process.poll() is not None,
            within_s=60,
            what="a server",
        )
        match = address_re.search(self.log)
        assert match, self.log[-3000:]
        self.url = match[0]
        return self.url

    def stop(self) -> None:
        self.process.kill()  # it holds nothing that must be saved
        self.process.wait()
