"""Emails whose worker dies after the provider has accepted them, and before it can say so."""

from tests.processes import StartFleet, Worker, eventually

# Short: the jobs of a worker that died come back after seconds, and so may its calls be made again.
SHORT = {
    "KEYWHEEL_WORKER_LEASE_S": "2",
    "KEYWHEEL_RESEND_TIMEOUT_S": "1",
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
        # Both processes at once also get copies of one email.
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
    assert len({ended[one]["result"]["id"] for one in ids}) == EMAILS
    assert len({ended[one]["result"]["id"] for one in copies}) == 1
    judgement = fleet.sandbox.ledger()["judgement"]
    assert judgement["emails_accepted"] == EMAILS + 1
    assert (judgement["emails_accepted_twice"], judgement["content_accepted_twice"]) == (0, 0)
    assert not any("Traceback" in worker.log for worker in successors)
