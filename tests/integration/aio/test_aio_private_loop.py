"""The loop on which plain functions wait for coroutines, in a program that forks."""

import subprocess
import sys

FORKED = """
import asyncio, os, signal
from worker.aio import private_loop

async def answer():
    return 7

assert private_loop.run(answer()) == 7
child = os.fork()
if not child:
    signal.alarm(30)  # where it hangs
    os._exit(private_loop.run(answer()))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_process_has_a_loop_of_its_own() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
