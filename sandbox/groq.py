"""The simulated Groq: decides the answer to each call, which the server then writes."""

import json
import math
import random
from collections.abc import Callable

from sandbox import groq_errors
from sandbox.accounts import LIVE, Accounts, ModelBuckets, Organisation, make_key
from sandbox.answer import SSE, Answer, Ending, encode
from sandbox.call import Call
from sandbox.faults import Fault, Faults
from sandbox.groq_call import GroqCall, GroqSettings
from sandbox.groq_completion import Completion, complete, next_id, stream, whole
from sandbox.groq_errors import ITPM, OTPM, RPD, RPM, TPD, TPM
from sandbox.groq_faults import break_answer
from sandbox.groq_request import Invalid, prompt_tokens, reserved_tokens, validate
from sandbox.groq_shortage import Shortage, give_back, rate_limit_headers, worst_shortage
from sandbox.ledger import Ledger
from sandbox.limits import go_duration, retry_after
from sandbox.models import missing_code

_UNKNOWN = Organisation("unknown")
_DEFAULT_WAIT_S = 60.0
_SOME_LIMIT = 1_000
_TOO_MANY = 429
_OTHER_MODEL = "(other)"
"""Stands for all unknown models, so that made-up names cannot fill the memory."""


class Groq:
    """Answers Groq's calls.

    Args:
        accounts: The accounts and keys.
        ledger: Records every call.
        faults: The faults in force.
        clock: Seconds since the epoch.
        settings: The behaviour without faults.
        rng: The random numbers.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        ledger: Ledger,
        faults: Faults,
        clock: Callable[[], float],
        settings: GroqSettings,
        rng: random.Random,
    ) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._faults = faults
        self._clock = clock
        self.settings = settings
        self._rng = rng
        self._model_json = {name: encode(name) for name in settings.models}

    def models(self, secret: str, *, arrived_s: float) -> Answer:
        """Answer GET /openai/v1/models."""
        key = self._accounts.lookup("groq", secret)
        if key is None or key.standing != LIVE:
            return self._refuse(
                GroqCall(key or make_key("groq", secret, _UNKNOWN), arrived_s), "invalid_api_key"
            )
        organisation = GroqCall(key, arrived_s).organisation
        if organisation.standing != LIVE:
            return self._refuse(GroqCall(key, arrived_s), organisation.standing)
        listed = [
            {
                "id": name,
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": "sandbox",
                "active": True,
            }
            for name in dict.fromkeys((*self.settings.models, *organisation.model_limits))
            if name not in organisation.blocked_models
        ]
        self._ledger.record(Call(arrived_s, key, "(models)"))
        return Answer(200, encode({"object": "list", "data": listed}))

    def complete(self, secret: str, body: bytes, *, arrived_s: float) -> Answer:
        """Answer POST /openai/v1/chat/completions.

        Args:
            secret: The key of the call.
            body: The raw body.
            arrived_s: When its headers were read.
        """
        key = self._accounts.lookup("groq", secret)
        if key is None or key.standing != LIVE:
            return self._refuse(
                GroqCall(key or make_key("groq", secret, _UNKNOWN), arrived_s), "invalid_api_key"
            )
        call = GroqCall(key, arrived_s)
        try:
            call.request = json.loads(body)
        except ValueError:
            return self._invalid(call, Invalid("request body is not valid JSON"))
        if not isinstance(call.request, dict):
            return self._invalid(call, Invalid("request body is not a JSON object"))
        named = call.request.get("model")
        call.named = named if isinstance(named, str) else ""
        known = call.named in self._model_json or call.named in call.organisation.model_limits
        call.model = call.named if known else _OTHER_MODEL
        fault = self._faults.pick("groq", key, call.named, arrived_s)
        if fault is not None:
            answer = self._faulty(call, fault)
            if fault.retry_after_s is not None:
                headers = {"retry-after": str(retry_after(fault.retry_after_s))}
                answer.headers = headers | dict(answer.headers)
            return answer
        return self._check_request(call) or self._serve(call)

    def _check_request(self, call: GroqCall) -> Answer | None:
        """Refuse a call for its account or its request; None lets it pass to the limits."""
        organisation = call.organisation
        if organisation.standing != LIVE:
            return self._refuse(call, organisation.standing)
        if organisation.exhausted_until_s > call.arrived_s:
            limit = organisation.limits.rpm or _SOME_LIMIT
            wait_s = organisation.exhausted_until_s - self._clock()
            return self._wait(call, Shortage(max(wait_s, 0.001), RPM, limit, limit, 1))
        if invalid := validate(call.request):
            return self._invalid(call, invalid)
        if call.model == _OTHER_MODEL:
            return self._refuse(call, missing_code(call.named))
        if call.model in organisation.blocked_models:
            return self._refuse(call, organisation.blocked_models[call.model])
        return None

    def _serve(self, call: GroqCall) -> Answer:
        """Charge the buckets and complete the call, or refuse it for the bucket that is short."""
        now_s = self._clock()
        prompt = prompt_tokens(call.request)
        bound = reserved_tokens(call.request, self.settings.completion_tokens)
        requested = call.requested = prompt + bound
        buckets = call.organisation.buckets_of(call.model, call.tier)
        charges = (
            (RPM, buckets.rpm, 1),
            (RPD, buckets.rpd, 1),
            (TPM, buckets.tpm, requested),
            (TPD, buckets.tpd, requested),
            (ITPM, buckets.itpm, prompt),
            (OTPM, buckets.otpm, bound),
        )
        shortage = worst_shortage(charges, now_s)
        if shortage is not None:
            return self._wait(call, shortage)
        for _, bucket, amount in charges:
            if bucket is not None:
                bucket.take(now_s, amount)
        completion = complete(
            call.request, prompt_tokens=prompt, tokens=self.settings.completion_tokens, bound=bound
        )
        return self._accept(call, completion, buckets, unused=requested - completion.total_tokens)

    def _accept(
        self, call: GroqCall, completion: Completion, buckets: ModelBuckets, *, unused: int
    ) -> Answer:
        now_s = self._clock()
        latency_s = self.settings.latency_ms / 1_000
        if self.settings.jitter_ms:
            latency_s += self._rng.random() * self.settings.jitter_ms / 1_000
        request_id = next_id("req_")
        answer = Answer(
            200, headers=rate_limit_headers(buckets, now_s, request_id), delay_s=latency_s
        )
        fault, code = (
            self._faults.pick("groq", call.key, call.model, call.arrived_s, breaking=True),
            "ok",
        )
        if call.request.get("stream"):
            error = (
                "the generation was stopped"
                if fault is not None and fault.kind == "stream_error"
                else None
            )
            answer.content_type = SSE
            answer.pause_s = self.settings.stream_ms / 1_000
            answer.chunks = stream(
                completion,
                call.model,
                request_id,
                created=int(now_s),
                seconds=latency_s,
                error=error,
            )
        else:
            model = self._model_json.get(call.model) or encode(call.model)
            answer.body = whole(
                completion, model, request_id, created=int(now_s), seconds=latency_s
            )
        if unused:
            answer.finish = lambda: give_back(buckets, self._clock(), unused)
        if fault is not None:
            code = fault.kind
            break_answer(answer, fault)
        self._ledger.record(
            Call(
                call.arrived_s,
                call.key,
                call.model,
                0 if answer.ending is Ending.RESET else answer.status,
                code,
                accepted=True,
                delivered=fault is None,
                tokens=completion.total_tokens,
                requested=call.requested,
            )
        )
        return answer

    def _wait(self, call: GroqCall, shortage: Shortage) -> Answer:
        """Refuse with 429 and name the wait in the message and in `retry-after`.

        Status 413 is used if no wait helps.
        """
        now_s = self._clock()
        dimension, organisation = shortage.dimension, call.organisation
        if math.isinf(shortage.wait_s):
            answer = groq_errors.too_large(
                call.model,
                organisation.name,
                dimension,
                limit=shortage.limit,
                requested=shortage.requested,
                tier=call.tier,
            )
            self._ledger.record(
                Call(call.arrived_s, call.key, call.model, answer.status, "too_large")
            )
            return answer
        # The message states the exact wait, the header whole seconds.
        cool_until_s = now_s + shortage.wait_s
        # The wait holds for calls of this size: if tokens are short, a smaller call may fit before.
        cool_tokens = call.requested if dimension in {TPM, TPD, ITPM, OTPM} else 0
        self._ledger.record(
            Call(
                call.arrived_s,
                call.key,
                call.model,
                429,
                dimension.short.lower(),
                requested=call.requested,
                cool_until_s=cool_until_s,
                cool_tokens=cool_tokens,
            )
        )
        body = groq_errors.rate_limited(
            call.model,
            organisation.name,
            dimension,
            limit=shortage.limit,
            used=shortage.used,
            requested=shortage.requested,
            wait=go_duration(shortage.wait_s),
            tier=call.tier,
        )
        headers = rate_limit_headers(
            organisation.buckets_of(call.model, call.tier), now_s, next_id("req_")
        )
        return Answer(429, body, headers | {"retry-after": str(retry_after(shortage.wait_s))})

    def _refuse(self, call: GroqCall, kind: str, *, status: int = 0, echo: str = "") -> Answer:
        answer = groq_errors.refuse(kind, call.named, status=status, echo=echo)
        self._ledger.record(
            Call(
                call.arrived_s,
                call.key,
                call.model,
                answer.status,
                kind,
                dead=groq_errors.REFUSALS[kind].dead,
            )
        )
        answer.headers = {"x-request-id": next_id("req_"), "x-groq-region": "sandbox"}
        return answer

    def _invalid(self, call: GroqCall, invalid: Invalid) -> Answer:
        self._ledger.record(
            Call(call.arrived_s, call.key, call.model, 400, invalid.code or "invalid_request")
        )
        body = groq_errors.error_body(invalid.message, code=invalid.code, param=invalid.param)
        return Answer(400, body, {"x-request-id": next_id("req_"), "x-groq-region": "sandbox"})

    def _faulty(self, call: GroqCall, fault: Fault) -> Answer:
        """Answer a call that a fault hits before any work is done."""
        kind, organisation = fault.kind, call.organisation
        if kind in groq_errors.REFUSALS:
            messages = call.request.get("messages")
            last = messages[-1] if isinstance(messages, list) and messages else {}
            echo = str(last.get("content", "")) if isinstance(last, dict) else ""
            return self._refuse(call, kind, status=fault.status, echo=echo)
        if kind == "rate_limit":
            limit = organisation.limits.rpm or _SOME_LIMIT
            wait_s = _DEFAULT_WAIT_S if fault.retry_after_s is None else fault.retry_after_s
            return self._wait(call, Shortage(wait_s, RPM, limit, limit, 1))
        if kind == "too_large":
            limit = organisation.limits.tpm or _SOME_LIMIT
            if fault.status == _TOO_MANY:
                # Seen in real traffic: a 429 that asks the client to wait although no wait can
                # help.
                body = groq_errors.rate_limited(
                    call.named,
                    organisation.name,
                    TPM,
                    limit=limit,
                    used=0,
                    requested=limit * 2,
                    wait="1m0s",
                    tier=call.tier,
                )
                answer = Answer(_TOO_MANY, body, {"retry-after": "60"})
            else:
                answer = groq_errors.too_large(
                    call.named,
                    organisation.name,
                    TPM,
                    limit=limit,
                    requested=limit * 2,
                    tier=call.tier,
                )
        elif kind == "edge_blocked":
            answer = groq_errors.blocked_by_edge()
        elif kind == "gateway_page":
            answer = groq_errors.gateway_page(fault.status or 502)
        else:
            answer = Answer(
                0, ending=Ending.RESET, hold_s=fault.hang_s if kind == "hang_before" else 0.0
            )
        self._ledger.record(
            Call(
                call.arrived_s,
                call.key,
                call.model,
                answer.status,
                kind,
                delivered=answer.status != 0,
            )
        )
        return answer
