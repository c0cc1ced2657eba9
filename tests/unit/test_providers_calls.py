"""Behaviour that calls of both providers share, over connections that answer at once."""

from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.unit.unstarted_answers import Pieces, body
from tests.unit.unstarted_providers import CHAT, ScriptedProvider, mail, no_process
from worker.providers import Completion, Groq, Resend, connections
from worker.providers.base import CLOSED, UNSENDABLE_KEY

__all__ = ["no_process"]


@pytest.mark.parametrize(("kind", "request_"), [(Groq, Completion.of(CHAT)), (Resend, mail())])
async def test_nothing_is_sent_with_an_unsendable_key_or_after_the_close(
    kind: Any, request_: Any
) -> None:
    provider = ScriptedProvider(kind, [])
    assert (await provider.call(request_, SecretStr("gsk ü"))).verdict is UNSENDABLE_KEY
    await provider.client.close()
    assert (await provider.call(request_)).verdict is CLOSED
    assert provider.requests == []


@pytest.mark.parametrize("stream", [None, False, True])
async def test_an_answer_is_read_at_once_unless_it_is_streamed(*, stream: bool | None) -> None:
    class Connected(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=body(Pieces(0, b"abc")), request=request)

    client = connections._Client(transport=Connected())
    request = client.build_request("GET", "https://p.example")
    options: Any = {} if stream is None else {"stream": stream}
    response = await client.send(request, **options)
    assert response.is_stream_consumed is not bool(stream)
    if not stream:
        assert response.content == b"abc"
