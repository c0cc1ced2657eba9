"""A lease for one email, and the request that is sent with it."""

from config.api_key import make_key
from worker.keypool import Lease, LeaseRequest
from worker.providers import EmailIdentity, SendRequest

KEY = make_key("resend", secret="re_0123456789abcdefghijklmnop", variable="RESEND_API_KEY")
LEASE = Lease("l", KEY, "a", LeaseRequest(emails=1), 0)
SENT = SendRequest("a", "1", "{}", (EmailIdentity("r", "hash"),))
