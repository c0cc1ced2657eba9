"""Ends what the demo (or a test run) started, should that itself be killed.

It waits for its pipe to close.

    python guard.py [FOLDER]     reads lines: a process id to end, or `done`; FOLDER goes as well

Imports nothing of ours and little else, so that it is there at once.
"""

import os
import shutil
import signal
import sys
import time

_GRACE_S = 1.0


def _leads(pid: int) -> bool:
    """Whether this process is still the one that we were told of.

    Each leads a session of its own.
    """
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def main() -> None:
    """Wait for the end of standard input, then end the processes and remove the folder, unless all was done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folders, pids = sys.argv[1:], []
    for line in sys.stdin:
        if line.strip() == "done":
            return
        pids.append(int(line))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            if _leads(pid):
                os.killpg(pid, number)
        deadline = time.monotonic() + _GRACE_S
        while any(map(_leads, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
