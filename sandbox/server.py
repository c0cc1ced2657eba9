"""The HTTP server: both providers and the control calls on one port."""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aiohttp import web

from sandbox import resend_errors
from sandbox.answer import Answer, Ending, encode
from sandbox.config import Config, Roster, make_roster
from sandbox.control import Control, ControlError
from sandbox.faults import Faults
from sandbox.groq import Groq
from sandbox.groq_errors import error_body
from sandbox.ledger import Ledger
from sandbox.limits import Clock
from sandbox.resend import Resend

_MAX_BYTES = 64 * 1024 * 1024
_STOP_S = 0.5
_LINGER_0 = struct.pack("ii", 1, 0)
_COMPLETIONS = "/openai/v1/chat/completions"
_BATCH = "/emails/batch"
_SENDING = frozenset({"/emails", _BATCH})


class Sandbox:
    """Both providers, and the state that they share.

    Args:
        config: The configuration.
        roster: Accounts and keys; default: those made from `config`.
    """

    def __init__(self, config: Config, roster: Roster | None = None) -> None:
        self.clock = Clock()
        self.roster = roster or make_roster(config)
        rng = random.Random(config.seed)  # noqa: S311 - chance in a simulation
        now = self.clock.now
        self.ledger = Ledger(now, grace_ms=config.grace_ms, ring=config.ledger_size)
        self.faults = Faults(rng)
        accounts = self.roster.accounts
        groq = replace(config.groq, models=self.roster.models)
        self.groq = Groq(
            accounts, ledger=self.ledger, faults=self.faults, clock=now, settings=groq, rng=rng
        )
        self.resend = Resend(
            accounts,
            ledger=self.ledger,
            faults=self.faults,
            clock=now,
            settings=config.resend,
            rng=rng,
        )
        self.control = Control(
            accounts,
            ledger=self.ledger,
            faults=self.faults,
            clock=self.clock,
            forget=self.resend.clear,
        )
        self.on_first_call: Callable[[], None] | None = None

    def answer(self, request: web.BaseRequest, body: bytes, arrived_s: float) -> Answer:
        """Decide the answer to a call."""
        path, method = request.path, request.method
        if path.startswith("/control/"):
            return self._controlled(method, path.removeprefix("/control/"), request, body)
        if self.on_first_call is not None:
            start, self.on_first_call = self.on_first_call, None
            start()
        secret = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if path == _COMPLETIONS and method == "POST":
            return self.groq.complete(secret, body, arrived_s=arrived_s)
        if path == _BATCH and method == "POST" and body == b"[]":
            # A worker asks this way whether batches exist: no limit, fault or ledger counts the
            # call.
            refusal = "The batch must contain at least one email."
            return Answer(422, resend_errors.error_body(422, "validation_error", refusal))
        if path in _SENDING and method == "POST":
            return self.resend.send(secret, path, body, request.headers, arrived_s=arrived_s)
        if path.startswith("/openai/"):
            return self._other_groq(secret, method, path, arrived_s)
        return self._other_resend(secret, method, path, arrived_s)

    def _other_groq(self, secret: str, method: str, path: str, arrived_s: float) -> Answer:
        if path == "/openai/v1/models" and method == "GET":
            return self.groq.models(secret, arrived_s=arrived_s)
        return Answer(404, error_body(f"Unknown request URL: {method} {path}.", code="unknown_url"))

    def _other_resend(self, secret: str, method: str, path: str, arrived_s: float) -> Answer:
        if method == "GET" and path == "/usage":
            return self.resend.usage(secret, arrived_s=arrived_s)
        if path.startswith("/emails/") and path not in _SENDING and method == "GET":
            return self.resend.email(secret, path.removeprefix("/emails/"), arrived_s=arrived_s)
        kind = "method_not_allowed" if path in _SENDING or path == "/usage" else "not_found"
        return self.resend.unknown(secret, kind, arrived_s=arrived_s)

    def _controlled(self, method: str, verb: str, request: web.BaseRequest, body: bytes) -> Answer:
        try:
            given = json.loads(body) if body.strip() else {}
            if method == "GET":
                return Answer(200, encode(self.control.read(verb, request.query)))
            if method == "POST":
                return Answer(200, encode(self.control.apply(verb, given)))
        except (ControlError, ValueError) as exc:
            return Answer(400, encode({"error": str(exc)}))
        return Answer(405, encode({"error": "control calls are GET or POST"}))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Read a call, decide its answer, and write or break it."""
        arrived_s = self.clock.now()
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return web.Response(
                status=413, body=b'{"error":{"message":"Request Entity Too Large"}}'
            )
        answer = self.answer(request, body, arrived_s)
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if answer.finish is not None:
            answer.finish()
        if answer.hold_s and answer.ending is not Ending.STALLED:
            await asyncio.sleep(answer.hold_s)
        if answer.ending is Ending.RESET:
            return _reset(request)
        if answer.ending in {Ending.TRUNCATED, Ending.STALLED} or answer.chunks:
            return await _in_pieces(request, answer)
        response = web.Response(status=answer.status, body=answer.body, headers=answer.headers)
        response.headers["Content-Type"] = answer.content_type
        return response


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    """Reset the connection; the returned response is not sent."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Closing with a linger time of 0 sends RST instead of FIN.
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        transport.abort()
    return web.Response()


async def _in_pieces(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.headers["Content-Type"] = answer.content_type
    pieces = answer.chunks or (answer.body[: len(answer.body) // 2],)
    if not answer.chunks:
        response.content_length = len(answer.body)
    if answer.ending is not Ending.WHOLE and answer.chunks:
        pieces = pieces[: len(pieces) // 2]
    with suppress(ConnectionError):  # the client may have gone
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            if answer.pause_s:
                await asyncio.sleep(answer.pause_s)
        if answer.ending is Ending.STALLED:
            await asyncio.sleep(answer.hold_s)
        if answer.ending is Ending.WHOLE:
            await response.write_eof()
        elif request.transport is not None:
            request.transport.close()
    return response


class Listener:
    """The sandbox on a port. A second stop does nothing.

    Args:
        sandbox: The providers to serve.
        host: The address to listen on.
        port: The port; 0 takes a free one.
    """

    def __init__(self, sandbox: Sandbox, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._sandbox = sandbox
        self._host = host
        self.port = port
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: The port is taken.
        """
        loop = asyncio.get_running_loop()

        def make_request(*parts: Any) -> web.BaseRequest:
            message, payload, protocol, writer, task = parts
            return web.BaseRequest(
                message, payload, protocol, writer, task, loop, client_max_size=_MAX_BYTES
            )

        server = web.Server(
            self._sandbox.handle,
            request_factory=make_request,
            access_log=None,
            keepalive_timeout=3_600.0,
        )
        self._runner = web.ServerRunner(
            server, handle_signals=False, shutdown_timeout=_STOP_S, access_log=None
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port, backlog=2_048, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port and every connection."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
