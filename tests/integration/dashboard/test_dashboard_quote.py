"""Quotes by the endpoint and by the task, compared with a case whose numbers are known."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks import admin, email
from tests import schemas
from tests.integration.dashboard.dashboard_site import LOGIN, Serve, Site, until
from worker.dashboard.poller import Pools
from worker.keypool import Lease, LeaseRequest
from worker.keypool.margins import Margins
from worker.keypool.published_margins import publish_margins, published_margins
from worker.runtime import Runtime
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict

QUOTE = "/api/admin/quote"
MODEL = "openai/gpt-oss-120b"


async def use_up(site: Site) -> tuple[datetime, datetime]:
    """Use up the 60 calls a minute of the only key; return the instants before and after that."""
    before, pool = datetime.now(UTC), site.pools["groq"]
    lease = await pool.acquire(LeaseRequest(model=MODEL, resource=MODEL, tokens=100))
    assert isinstance(lease, Lease)
    limits = (ObservedLimit(Dimension.RPM, 60, 0),)
    await pool.settle(lease, Verdict(Fate.DONE, "ok", status=200, limits=limits))
    return before, datetime.now(UTC)


def check_start(used_up: datetime, between: tuple[datetime, datetime], asked_at: datetime) -> None:
    slack = timedelta(seconds=0.1)
    # A request reads the keys while it runs, and instants count from its end.
    took = datetime.now(UTC) - asked_at
    assert between[0] - slack <= used_up <= between[1] + slack + took


async def test_endpoint_and_task_quote_what_the_keys_will_allow(serve: Serve) -> None:
    viewer = ("vic", "canary-password-9913")
    logins = tuple(":".join(login) for login in (LOGIN, viewer))
    site = await serve(groq=1, basic_auth=logins, environ={"ADMIN_USERS": LOGIN[0]})
    await site.redis.lpush("ai", *["{}"] * 100)
    await site.redis.zadd("ai.deferred.due", {f"job {number}": 1.0 for number in range(20)})
    between = await use_up(site)

    asked_at = [between[1]]

    async def ask(**query: Any) -> dict[str, Any]:
        asked_at[0] = datetime.now(UTC)
        answer = await site.client.get(QUOTE, params={"service": "groq"} | query, auth=viewer)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def look() -> dict[str, Any]:
        return await ask(jobs=60)

    def right(quote: dict[str, Any]) -> None:
        start = datetime.fromisoformat(quote["expected_start"])
        check_start(start - timedelta(seconds=121), between, asked_at[0])
        start_by, end_by = (datetime.fromisoformat(quote[name]) for name in ("start_by", "end_by"))
        assert (end_by - start_by).total_seconds() == pytest.approx(59 * 1.5, abs=0.2)
        assert start < start_by
        assert (quote["model"], quote["jobs"], quote["limited_by"]) == (MODEL, 60, "rpm")
        assert quote["learned_from"] == 0

    learned = Margins(((2.0, 7), (3.0, 8), (4.0, 9)))
    quote = await until(look, lambda seen: seen["waiting"] == 120)
    right(quote)
    try:
        answer = await admin.quote.run(service="groq", jobs=60)
        right(answer)
        await publish_margins(site.redis, site.pools["groq"].names, learned)
        later = await admin.quote.run(service="groq", jobs=60)
    finally:
        await Runtime.current().close()
    schemas.check("tasks.admin.quote", "result", answer)
    assert answer["waiting"] == 120
    start_by, end_by = (datetime.fromisoformat(later[name]) for name in ("start_by", "end_by"))
    assert (end_by - start_by).total_seconds() == pytest.approx(59 * 4, abs=0.2)
    assert later["learned_from"] == 9
    for query, status, error in (
        ({"jobs": "0"}, 400, "bad_request"),
        ({"tokens": "many"}, 400, "bad_request"),
        ({"job": "1"}, 400, "unknown_field"),
        ({"service": "grok"}, 404, "unknown_service"),
    ):
        params = {"service": "groq"} | query
        refused = await site.client.get(QUOTE, params=params, auth=viewer)
        assert (refused.status_code, refused.json()["error"]) == (status, error)
    missing = await site.client.get(QUOTE, auth=viewer)
    assert (missing.status_code, missing.json()["message"]) == (400, "service: is required.")
    assert (await site.client.get(QUOTE, params={"service": "groq"})).status_code == 401

    # The workers get what Flower has learned.

    async def learn(_: Pools) -> None:
        margins = site.app.poller.margins
        for number in range(101):
            margins._books["groq"].quote(float(number), ended=number, place=1, forecast_s=0.0)
        margins._published_s = float("-inf")

    await site.app.poller.with_pools(learn)
    pool = site.pools["groq"]

    async def shared() -> Margins:
        return await published_margins(site.redis, pool.names)

    assert (await until(shared, lambda seen: seen != learned)).learned_from(0) == 100


async def test_the_expected_start_of_an_email_counts_calls_that_emails_share(serve: Serve) -> None:
    site = await serve(groq=1, resend=1)
    pool = site.pools["resend"]
    lease = await pool.acquire(LeaseRequest(emails=1))
    assert isinstance(lease, Lease)
    limits = (ObservedLimit(Dimension.RPS, 1, 0),)
    await pool.settle(lease, Verdict(Fate.DONE, "ok", status=200, limits=limits))
    body = base64.b64encode(json.dumps([[], {}, {}]).encode()).decode()
    mails = [
        {
            "body": body,
            "headers": {"id": f"mail-{number}", "task": email.send.name},
            "properties": {"delivery_tag": str(number)},
        }
        for number in range(1, 1_001)
    ]
    await site.redis.lpush("email", *map(json.dumps, mails))
    now = datetime.now(UTC)
    try:
        answer = await admin.place.run(id="mail-1000")
    finally:
        await Runtime.current().close()
    assert (answer["place"], answer["limited_by"]) == (1_000, "rps")
    assert datetime.fromisoformat(answer["expected_start"]) < now + timedelta(seconds=20)
