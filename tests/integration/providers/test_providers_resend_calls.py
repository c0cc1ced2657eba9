"""The SDK sends emails: their bytes, their keys, and other code's calls in the process."""

import asyncio
import json
from typing import Any

import pytest
import resend
from pydantic import SecretStr

from tests.integration.providers.resend_mail import KEY, MAIL, PAYLOAD
from tests.integration.providers.scripted_api import ScriptedApi
from worker.providers import Resend, SendRequest
from worker.providers.resend.http import KeyedClient


async def test_each_attempt_sends_the_same_bytes(scripted: ScriptedApi, mailer: Resend) -> None:
    scripted.default = lambda _: scripted.http(500)
    again = SendRequest.single(json.loads(json.dumps(dict(reversed(PAYLOAD.items())))), "job-1")
    for mail in (MAIL, MAIL, again):
        await mailer.call(KEY, mail)
    assert {request.body for request in scripted.seen} == {MAIL.body.encode()}


@pytest.mark.usefixtures("untraced")
async def test_calls_side_by_side_never_send_each_others_keys(scripted: ScriptedApi) -> None:
    # Many calls at once take turns on connections, and a busy machine opens that many in time.
    mailer = Resend(scripted.url, timeout_s=100, max_connections=200)
    keys = [SecretStr(f"re_key{number}") for number in range(4)]
    scripted.default = lambda request: scripted.http(
        200, {"id": f"{request.headers['idempotency-key']} {request.key}"}
    )

    async def gets_its_own_id(number: int) -> bool:
        key = keys[number % 4]
        mail = SendRequest.single(PAYLOAD | {"subject": str(number)}, f"job-{number}")
        value = (await mailer.call(key, mail)).value
        return value == {"id": f"job-{number} {key.get_secret_value()}"}

    for first in range(0, 2_000, 500):
        assert all(
            await asyncio.gather(*(gets_its_own_id(number) for number in range(first, first + 500)))
        )
    assert len(scripted.seen) == 2_000
    assert resend.api_key is None
    await mailer.close()


async def test_two_providers_in_one_process_keep_their_urls_apart(
    scripted: ScriptedApi, refused_url: str
) -> None:
    scripted.answer(200, {"id": "1"})
    here, there = Resend(scripted.url), Resend(refused_url)
    replies = await asyncio.gather(here.call(KEY, MAIL), there.call(KEY, MAIL))
    assert [reply.verdict.code for reply in replies] == ["ok", "connect_error"]
    await here.close()
    await there.close()


async def test_calls_of_other_code_go_to_the_client_that_it_has_set(
    mailer: Resend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "default_async_http_client", KeyedClient(_Other()))
    answer = await resend.Emails.send_async({"to": "ann@example.org"})
    assert answer["id"] == f"post {resend.api_url}/emails"
    monkeypatch.setattr(resend, "default_async_http_client", KeyedClient(None))
    with pytest.raises(resend.exceptions.ResendError, match="no HTTP client"):
        await resend.Emails.send_async({"to": "ann@example.org"})


async def test_the_sdk_forgets_a_key_from_the_environment(
    scripted: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "api_key", "re_from_the_environment")
    await Resend(scripted.url).close()
    assert resend.api_key is None


async def test_a_payload_that_json_cannot_hold_is_not_sent(
    scripted: ScriptedApi, mailer: Resend
) -> None:
    with pytest.raises(TypeError):
        await mailer.call(
            KEY, SendRequest.single({"from": "a@b.example", "text": object()}, "job-1")
        )
    assert scripted.seen == []


class _Other(resend.AsyncHTTPClient):
    async def request(self, method: str, url: str, headers: Any, **content: Any) -> Any:  # noqa: ARG002 - the SDK's signature
        return (
            json.dumps({"id": f"{method} {url}", **content["json"]}).encode(),
            200,
            {"content-type": "application/json"},
        )
