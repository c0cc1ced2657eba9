"""Three times the load that the limits allow.

No job is lost, little of the limits stays unused, and no resting key is called.
"""

import asyncio
import time
from collections import Counter

import aiohttp

from tests.fleets import Fleet, StartFleet

KEYS, RPM = 5, 600
ALLOWED_A_SECOND = KEYS * RPM / 60
SENDING_S, MEASURED_S = 8, 18
MODEL = "openai/gpt-oss-120b"


def left_of(fleet: Fleet) -> list[float]:
    """Return what is left of each key's minute."""
    buckets = [account["models"].get(MODEL) for account in fleet.sandbox.state()["groq"]]
    return [RPM - models["rpm"]["used"] if models else RPM for models in buckets]


async def spend(fleet: Fleet) -> None:
    """Use up most of every key's minute, as another application with the same keys would.

    A bucket of 600 a minute lets 600 calls pass at once, which would hide the rate behind it.
    """
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "max_completion_tokens": 1,
    }
    url = f"{fleet.sandbox.groq_base_url}/openai/v1/chat/completions"
    async with aiohttp.ClientSession() as session:

        async def call(secret: str, times: int) -> None:
            for _ in range(times):
                async with session.post(
                    url, json=body, headers={"authorization": f"Bearer {secret}"}
                ) as answer:
                    assert answer.status == 200

        for kept in (100, 20, 20):  # each round uses what has refilled during the one before
            now = zip(fleet.sandbox.keys("groq"), left_of(fleet), strict=True)
            rounds = [
                call(secret, max(0, int(left) - kept) // 4)
                for secret, left in now
                for _ in range(4)
            ]
            await asyncio.gather(*rounds)


async def test_three_times_the_load_loses_nothing_and_uses_what_the_limits_allow(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet(
        groq_keys=KEYS, groq_rpm=RPM, groq_rpd=0, groq_tpm=0, groq_tpd=0, groq_latency_ms=20,
        resend_keys=0,
        grace_ms=1500,  # for calls in flight when the key began to rest, on a slow machine
    )  # fmt: skip
    await spend(fleet)
    before_s = time.time()
    left = sum(left_of(fleet))
    start_s = fleet.sandbox.state()["now_s"]
    ids = await asyncio.to_thread(
        fleet.producer.pour,
        "tasks.ai.complete",
        rate=3 * ALLOWED_A_SECOND,
        seconds=SENDING_S,
        arguments=lambda number: {"prompt": f"hello {number}", "max_completion_tokens": 5},
    )
    ended = await asyncio.to_thread(fleet.producer.await_all, ids, within_s=60)
    took_s = time.time() - before_s
    assert Counter(meta["status"] for meta in ended.values()) == {"SUCCESS": len(ids)}
    assert len(ids) == 3 * ALLOWED_A_SECOND * SENDING_S

    ledger = fleet.sandbox.ledger(full=True)
    ours = [call for call in ledger["calls"] if call["arrived_s"] >= start_s]
    assert sum(call["accepted"] for call in ours) == len(ids)
    # Never more than was offered: at three times the rate, the offer is the larger number all
    # the time.
    allowed = min(left + ALLOWED_A_SECOND * MEASURED_S, len(ids))
    accepted = sum(call["accepted"] and call["arrived_s"] <= start_s + MEASURED_S for call in ours)
    assert accepted >= 0.85 * allowed, (
        f"{accepted} of {allowed:.0f} allowed; all took {took_s:.1f} s"
    )
    assert ledger["judgement"]["calls_while_cooling"] == 0, ledger["violations"]
