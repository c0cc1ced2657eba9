"""A worker is asked to end while some of its jobs wait for a key."""

import os
import signal

import redis

from tests.fleets import StartFleet
from tests.processes import eventually
from worker.usage.series import unpacked


def test_jobs_that_wait_for_a_key_go_back_and_do_not_hold_a_worker_up(
    start_fleet: StartFleet,
) -> None:
    limits = {"groq_keys": 1, "groq_rpm": 6, "groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0}
    fleet = start_fleet(count=1, resend_keys=0, **limits)
    [worker] = fleet.workers
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": "wait"}] * 14)
    eventually(
        lambda: fleet.sandbox.ledger()["services"]["groq"]["accepted"] >= 6,
        what="the burst of the limit",
    )
    worker.stop()
    with redis.Redis.from_url(fleet.redis.url) as client:
        accepted = fleet.sandbox.ledger()["services"]["groq"]["accepted"]
        assert client.llen("ai") + client.hlen("ai.deferred.due.texts") == len(ids) - accepted
        assert client.hlen("unacked") == 0
        hours = [client.hvals(name) for name in client.keys("{kw:usage}:hour:*")]
    counted = [unpacked(text.decode()) for hour in hours for text in hour]
    calls, refused, *_ = map(sum, zip(*counted, strict=True))
    assert calls - refused == accepted, "a worker that is stopped writes its usage"


def test_a_worker_ends_although_its_redis_hangs_and_loses_nothing(start_fleet: StartFleet) -> None:
    fleet = start_fleet(count=1, resend_keys=0, settings={"KEYWHEEL_WORKER_LEASE_S": "4"})
    [worker] = fleet.workers
    # The sockets of Redis stay open, but it does not answer: each command would wait half a minute.
    os.kill(fleet.redis.pid or 0, signal.SIGSTOP)
    try:
        worker.process.send_signal(signal.SIGTERM)
        assert worker.await_exit(within_s=30) == 0
    finally:
        os.kill(fleet.redis.pid or 0, signal.SIGCONT)
    assert "Redis has not answered for 4 s, so this worker ends without it" in worker.log
    assert "Traceback" not in worker.log
