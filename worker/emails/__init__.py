"""Emails: each is accepted once, and those that wait for the rate limit go out together.

One value has five forms on its way:

    EmailArguments   what the caller asked for (worker/arguments/email.py)
    OutgoingEmail    one email in one run of its job
    SendRequest      one call whose bytes are settled: one email or a batch
    Reply            the judged answer
    Served           what one job gets

`EmailRun` takes one of three steps until it has a result. `LOOK_AGAIN` asks the idempotency store
what is known of the email. `SEND` sends it as a new one. `WAIT` sends it after another wait.

Emails that the same keys may send share a queue. The first of them is the leader: it asks for a
lease, and takes the others along as its followers. From that instant on the next one leads:

    A  leads   acquire ····· lease ─ claim [A B C] ─ POST /emails/batch ─ complete ─┬─ id of A
    B  follows    wait ······┤                                                      ├─ id of B
    C  follows       wait ···┘                                                      └─ id of C
    D  follows          wait ── leads   acquire ····· lease ─ claim [D …] ─ POST …

A follower ends with the outcome of the leader's call. It waits again, or looks again, if the call
did not carry its email.
"""

from worker.emails.outgoing import OutgoingEmail
from worker.emails.sender import EmailSender

__all__ = ["EmailSender", "OutgoingEmail"]
