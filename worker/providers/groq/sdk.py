"""Makes calls of Groq's SDK cheaper, because a client's requests differ only in their bodies."""

import json
from collections.abc import Mapping
from typing import Any, Final, cast

import groq
import httpx

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Writes a body as the SDK does."""


class AsyncGroq(groq.AsyncGroq):
    """The official SDK, for calls to one URL with one set of options.

    For each call the SDK copies the options, and merges and checks the same headers, which is a
    tenth of the cost of a completion. Here the SDK does this for the first call only; later calls
    copy the first request with another body. The class has the SDK's own name because the header
    User-Agent contains it.
    """

    _options: Any = None
    _first: httpx.Request

    async def send(
        self, url: httpx.URL, body: Mapping[str, Any], *, stream: bool, options: Any
    ) -> httpx.Response:
        """Send a request unchanged.

        Args:
            url: The URL; the same for all calls of this client.
            body: The object to send.
            stream: Whether to return before the body of the answer has arrived.
            options: The SDK's options of a call; the same for all calls.

        Raises:
            groq.APIError: The call failed, or was refused.
        """
        kind: Any = {"stream": stream, "stream_cls": groq.AsyncStream[Any]}
        if self._options is None:
            answer = await self.post(
                cast("str", url), cast_to=httpx.Response, body=body, options=options, **kind
            )
        else:
            again = self._options.model_copy()
            again.json_data = body
            answer = await self.request(httpx.Response, again, **kind)
        return cast("httpx.Response", answer)

    def _build_request(self, options: Any, *, retries_taken: int = 0) -> httpx.Request:
        if self._options is None:
            request = super()._build_request(options, retries_taken=retries_taken)
            self._first = httpx.Request(
                request.method, request.url, headers=request.headers, extensions=request.extensions
            )
            self._options = options.model_copy(update={"json_data": None})
            return request
        body = _encode(options.json_data).encode()
        request = httpx.Request(
            self._first.method,
            self._first.url,
            headers=self._first.headers,
            stream=httpx.ByteStream(body),
            extensions=self._first.extensions,
        )
        request.headers.encoding = "ascii"  # else httpx reads all headers to find the encoding
        request.headers["Content-Length"] = str(len(body))
        request.read()
        return request
