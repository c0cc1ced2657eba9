"""Several processes that share one bucket."""

import asyncio
import os
import sys

from tests.integration.keypool.keypool_asking import Make, lease
from tests.processes import ROOT
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict

PROCESSES, EACH, LIMIT = 4, 50, 75


async def test_of_200_acquirers_in_several_processes_as_many_pass_as_there_are_calls(
    make_pool: Make, redis_url: str
) -> None:
    pool = make_pool(1, now_ms=None)
    # A daily bucket, so that less than a call refills during the test.
    limits = (ObservedLimit(Dimension.RPD, LIMIT, LIMIT), ObservedLimit(Dimension.RPM, 100_000))
    await pool.settle(
        await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits)
    )
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.keypool.keypool_child",
            redis_url,
            str(EACH),
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    try:
        async with asyncio.timeout(60):
            for child in children:
                assert child.stdout is not None
                assert await child.stdout.readline() == b"ready\n"
            outputs = await asyncio.gather(*(child.communicate(b"go\n") for child in children))
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
    assert sum(int(out) for out, _ in outputs) == LIMIT
