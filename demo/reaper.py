"""Ends the processes that the demo (or a test run) started if the demo itself is killed.

It waits until its standard input is closed.

    python reaper.py [FOLDER]    reads lines: the id of a process to end, or `done`

It also removes FOLDER. It imports only a few standard modules, so that it starts at once.
"""

import os
import shutil
import signal
import sys
import time

_GRACE_S = 1.0


def _is_session_leader(pid: int) -> bool:
    """Whether the process still exists that was named; each of them leads its own session."""
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def main() -> None:
    """Wait until the input is closed, then end the processes and remove the folder.

    A line `done` says that nothing is left to do.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folders, pids = sys.argv[1:], []
    for line in sys.stdin:
        if line.strip() == "done":
            return
        pids.append(int(line))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            if _is_session_leader(pid):
                os.killpg(pid, number)
        deadline = time.monotonic() + _GRACE_S
        while any(map(_is_session_leader, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
