"""Emails whose worker dies after the provider accepted them and before a result is stored."""

import os
import signal

from tests.fleets import StartFleet
from tests.processes import Worker, eventually

# The jobs of a dead worker are redelivered within seconds. No job waits until the worker's calls
# must have ended, which takes seven minutes with this timeout.
SHORT = {
    "KEYWHEEL_WORKER_LEASE_S": "2",
    "KEYWHEEL_RESEND_TIMEOUT_S": "200",
    "KEYWHEEL_RETRY_BACKOFF_S": "0.05",
}
LIMITS = {"resend_keys": 2, "resend_rps": 5, "resend_daily": 0, "resend_monthly": 0}
EMAILS = 60


def test_a_worker_killed_after_its_batches_were_accepted_sends_nothing_twice(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet(settings=SHORT, count=1, **LIMITS)
    fleet.sandbox.control("fault", service="resend", kind="hang", hang_s=600)
    mails = [
        {"to": "ann@example.com", "subject": f"mail {n}", "text": "Hello"} for n in range(EMAILS)
    ]
    ids = fleet.producer.many("tasks.email.send", mails)
    eventually(
        lambda: fleet.sandbox.ledger()["judgement"]["emails_accepted"] >= EMAILS // 2,
        what="accepted emails",
    )
    fleet.workers[0].kill()
    fleet.sandbox.control("clear", service="resend")
    changed = {
        name: "new@" + value.partition("@")[2].rstrip(">")
        for name, value in fleet.environ.items()
        if "_FROM" in name
    }
    environ = fleet.environ | changed
    successors = [Worker(fleet.folder, environ, name=f"w{n}") for n in (8, 9)]
    try:
        for worker in successors:
            worker.await_ready()
        # Both processes also get copies of one email at once.
        copies = fleet.producer.many(
            "tasks.email.send",
            [{"to": "bob@example.com", "subject": "copy", "text": "x", "idempotency_key": "c"}]
            * 20,
        )
        ended = fleet.producer.await_all(ids + copies, within_s=90)
    finally:
        for worker in successors:
            worker.stop()
    assert [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"] == []
    assert len({ended[job]["result"]["id"] for job in ids}) == EMAILS
    assert len({ended[job]["result"]["id"] for job in copies}) == 1
    judgement = fleet.sandbox.ledger()["judgement"]
    assert judgement["emails_accepted"] == EMAILS + 1
    assert (judgement["emails_accepted_twice"], judgement["content_accepted_twice"]) == (0, 0)
    assert not any("Traceback" in worker.log for worker in successors)


def test_a_worker_that_was_frozen_during_its_calls_sends_nothing_that_another_has_sent(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet(settings=SHORT, count=1, resend_latency_ms=1_000, **LIMITS)
    frozen = fleet.workers[0]
    mail = {"to": "ann@example.com", "text": "Hello"}
    paper = {"attachments": [{"filename": "a.txt", "content": "aGVsbG8="}]}
    mails = [mail | {"subject": f"mail {n}"} for n in range(20)] + [mail | paper | {"subject": "p"}]
    ids = fleet.producer.many("tasks.email.send", mails)

    def accepted() -> int:
        return int(fleet.sandbox.ledger()["judgement"]["emails_accepted"])

    eventually(lambda: accepted() > 2, what="a batch")
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        fleet.workers.append(Worker(fleet.folder, fleet.environ, name="w2").await_ready())
        ended = fleet.producer.await_all(ids, within_s=60)
        calls = fleet.sandbox.ledger()["judgement"]
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    assert [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"] == []
    frozen.stop()  # after the answers that the worker waited for
    assert fleet.sandbox.ledger()["judgement"] == calls
    assert (accepted(), calls["emails_accepted_twice"], calls["content_accepted_twice"]) == (
        len(mails),
        0,
        0,
    )
    assert "Traceback" not in fleet.logs
