"""Sends each email once, and sends emails that wait for the rate limit together.

An email takes five forms:

    EmailArguments   the arguments of the task (worker/arguments/email.py)
    OutgoingEmail    one email in one run of its job
    SendRequest      one call with its exact bytes: one email or a batch
    Reply            the answer with its verdict
    Served           the result for one job

`EmailRun` takes one of three steps, again and again, until it has a result. `LOOK_AGAIN` reads the
email's record in the idempotency store. `SEND` sends it as a new email. `WAIT` sends it after
another wait.

Emails that the same keys may send share a queue. The first email is the leader: it asks for a
lease, and takes the others along as its followers. From then on, the next email in the queue leads:

    A  leads   acquire ····· lease ─ claim [A B C] ─ POST /emails/batch ─ complete ─┬─ id of A
    B  follows    wait ······┤                                                      ├─ id of B
    C  follows       wait ···┘                                                      └─ id of C
    D  follows          wait ── leads   acquire ····· lease ─ claim [D …] ─ POST …

A follower gets its outcome from the leader's call. If that call did not carry its email, the
follower waits again, or looks into the store again.
"""

from worker.emails.outgoing import OutgoingEmail
from worker.emails.sender import EmailSender

__all__ = ["EmailSender", "OutgoingEmail"]
