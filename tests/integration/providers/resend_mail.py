"""The email that the tests of Resend send, and the key that they send it with."""

from pydantic import SecretStr

from worker.providers import SendRequest

KEY = SecretStr("re_canary0123456789")
BODY_TEXT = "the secret recipe of the house"
PAYLOAD = {
    "from": "Shop <hello@Shop.example>",
    "to": ["ann@example.org"],
    "subject": "Your order is on its way",
    "text": BODY_TEXT,
}
MAIL = SendRequest.single(PAYLOAD, "job-1")
