"""A provider is down for all calls: jobs wait, and none is lost, failed or done twice."""

from tests.fleets import StartFleet

OUTAGE_S = 10


def test_an_outage_fails_no_job_and_sends_no_email_twice(start_fleet: StartFleet) -> None:
    """Five failures in a row would end each of these lone jobs, if nothing else failed."""
    settings = {
        "KEYWHEEL_MAX_RETRIES": "2",
        "KEYWHEEL_RETRY_BACKOFF_S": "0.07",
        "KEYWHEEL_GROQ_COOLDOWN_S": "0.5",
        "KEYWHEEL_RESEND_COOLDOWN_S": "0.5",
    }
    fleet = start_fleet(count=1, settings=settings, groq_keys=2, resend_keys=2, resend_rps=50)
    for service, kind in (
        ("groq", {"status": 500}),
        ("resend", {"kind": "error_after", "status": 500}),
    ):
        fleet.sandbox.control("fault", service=service, seconds=OUTAGE_S, **kind)
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": "lone"}])
    mail = {"to": "ann@example.net", "subject": "lone", "text": "Hello"}
    ids += fleet.producer.many("tasks.email.send", [mail])
    ended = fleet.producer.await_all(ids, within_s=60)
    assert {meta["status"] for meta in ended.values()} == {"SUCCESS"}
    ledger = fleet.sandbox.ledger()
    assert ledger["judgement"]["emails_accepted"] == 1
    assert ledger["judgement"]["emails_accepted_twice"] == 0
    calls = ledger["services"]["groq"]["by_status"]
    assert 3 <= calls["500"] <= 40, "jobs probe the provider again and again, but rarely"
