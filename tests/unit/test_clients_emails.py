"""Emails from a user's own task: the sender's requests, and the idempotency keys."""

from types import SimpleNamespace
from typing import Any

import pytest

from config.api_key import make_key
from tests.unit.sample_keys import RESEND
from worker.clients import emails as emails_module
from worker.clients.emails import EmailClient, SyncEmailClient
from worker.jobs.email_keys import EmailKeys
from worker.jobs.job_run import current_run

MAIL: dict[str, Any] = {"from": "us@b.example", "to": ["ann@a.example", "bob@a.example"]}
MAIL |= {"subject": "Hi", "text": "hello"}


class Sending:
    """A sender with planned answers, which notes its arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: Exception | None = None
        self.sent: list[Any] = []
        key = make_key("resend", secret=RESEND, variable="RESEND_API_KEY")
        served = SimpleNamespace(value={"id": "e1"}, key=key.label, attempts=2, waited_ms=1_234.5)

        async def serve(lease: Any, email: Any, *, longest_s: float) -> Any:
            assert longest_s == 3.0
            self.sent.append((lease, email))
            if self.error is not None:
                raise self.error
            return served

        async def wait(make: Any, waiting: str, *, longest_wait_s: float) -> Any:
            assert (waiting, longest_wait_s) == ("the line", 7.0)
            return await make(3.0)

        async def runtime() -> Any:
            return SimpleNamespace(
                pools={"resend": SimpleNamespace(keys=(key,))},
                senders={"resend": SimpleNamespace(serve=serve)},
                rotations={"resend": SimpleNamespace(waiting="the line")},
            )

        monkeypatch.setattr(emails_module, "runtime", runtime)
        monkeypatch.setattr(emails_module, "wait_in_place", wait)

    async def send(self, **changes: Any) -> tuple[dict[str, Any], Any]:
        """Send an email; return the task's result, and the email that the sender got."""
        returned = await EmailClient(longest_wait_s=7.0).send(MAIL, **changes)
        return returned, self.sent[-1][1]


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> Sending:
    return Sending(monkeypatch)


async def test_an_email_outside_of_a_job_has_a_new_idempotency_key_each_time(
    sending: Sending,
) -> None:
    returned, email = await sending.send()
    assert returned == {"id": "e1", "key": "re_def456...", "attempts": 2, "waited_s": 1.234}
    assert (email.job, email.known, email.recipients) == ("", True, 2)
    _, other = await sending.send()
    assert email.idempotency_key != other.idempotency_key
    sending.error = OSError("lost")
    with pytest.raises(OSError, match="lost"):
        await sending.send()


async def test_each_run_of_a_job_sends_an_email_under_one_key(sending: Sending) -> None:
    """The keys are written out: a version with other keys would send accepted emails again."""
    keys = []
    for _ in range(2):
        run: Any = SimpleNamespace(
            job="job-1", email_keys=EmailKeys("job-1"), of_this_job=lambda lease: ("job-1's", lease)
        )
        token = current_run.set(run)
        try:
            for changes in (
                {},
                {"text": "another"},
                {"to": "bob@a.example", "bcc": "ann@a.example"},
            ):
                _, email = await sending.send(**changes)
                keys.append(email.idempotency_key)
                assert (email.job, sending.sent[-1][0][0]) == ("job-1", "job-1's")
            sending.error = OSError("lost")
            with pytest.raises(OSError, match="lost"):
                await sending.send(to="c@a.example")
            sending.error = None
            failed = sending.sent[-1][1].idempotency_key
            _, again = await sending.send(to="c@a.example")
            assert again.idempotency_key == failed
        finally:
            current_run.reset(token)
    assert keys[:3] == [f"job-1-a2bce16689fc-{number}" for number in (1, 2, 3)]
    assert keys[3:] == keys[:3]


def test_a_plain_function_sends_an_email_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sends: list[Any] = []

    async def send(_: EmailClient, params: Any, /, **fields: Any) -> Any:
        sends.append((params, fields))
        return {"id": "e1"}

    monkeypatch.setattr(EmailClient, "send", send)
    assert SyncEmailClient(longest_wait_s=5.0)._client._longest_wait_s == 5.0
    assert SyncEmailClient().send(MAIL, text="x") == {"id": "e1"}
    assert sends == [(MAIL, {"text": "x"})]


def test_an_email_that_may_have_been_accepted_keeps_its_key() -> None:
    keys = EmailKeys("job")
    assert [keys.make("ann", "x"), keys.make("bob", "x")] == ["job-ann-1", "job-bob-1"]
    assert keys.make("ann", "y") == "job-ann-2"
    keys.note_failed("ann", "x", "job-ann-1")
    assert keys.make("ann", "y") == "job-ann-3"
    assert keys.make("ann", "x") == "job-ann-1"
    assert keys.make("ann", "x") == "job-ann-4", "the key is kept only once"
