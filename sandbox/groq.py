"""Groq: what a call is answered. Decisions only; the server writes them."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox import groq_errors
from sandbox.accounts import DEFAULT_MODELS, LIVE, Accounts, Key, ModelBuckets, Organisation, make_key
from sandbox.answer import HTML, SSE, Answer, Ending, encode
from sandbox.faults import Fault, Faults
from sandbox.groq_completion import Completion, complete, next_id, stream, whole
from sandbox.groq_errors import RPD, RPM, TPD, TPM, Dimension
from sandbox.groq_request import prompt_tokens, reserved_tokens, validate
from sandbox.ledger import Call, Ledger
from sandbox.limits import Bucket, go_duration, retry_after

_AFTER = frozenset(
    {"reset_after", "truncated", "html_ok", "broken_json", "hang", "error_after", "stream_error", "stream_cut"}
)
_BEFORE = frozenset({"reset_before", "hang_before", "edge_blocked", "gateway_page", "rate_limit", "too_large"})
KINDS = tuple(sorted({*groq_errors.REFUSALS, *_AFTER, *_BEFORE}))
"""The fault kinds that Groq knows."""

_UNKNOWN = Organisation("unknown")
_TELLS_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class GroqSettings:
    """How the simulated Groq behaves when all is well.

    Attributes:
        models: The models that exist.
        latency_ms: How long a completion takes, in milliseconds.
        jitter_ms: How much longer it may take, by chance, in milliseconds.
        completion_tokens: How long an answer is where the request does not bound it more.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    completion_tokens: int = 24


class Groq:
    """Answers Groq's calls.

    Args:
        accounts: Who may call.
        ledger: Where every call is written down.
        faults: What goes wrong.
        clock: Seconds since the epoch.
        settings: How it behaves.
        rng: Where chance comes from.
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
            return self._refuse(self._known(key, secret), "invalid_api_key", "", arrived_s)
        listed = [
            {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "sandbox", "active": True}
            for name in self.settings.models
        ]
        self._ledger.record(Call(arrived_s, key, "(models)"))
        return Answer(200, encode({"object": "list", "data": listed}))

    def complete(self, secret: str, body: bytes, *, arrived_s: float) -> Answer:
        """Answer POST /openai/v1/chat/completions.

        Args:
            secret: The key that the call came with.
            body: The raw body.
            arrived_s: When its headers were read.
        """
        key = self._accounts.lookup("groq", secret)
        if key is None or key.standing != LIVE:
            return self._refuse(self._known(key, secret), "invalid_api_key", "", arrived_s)
        try:
            request = json.loads(body)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            return self._invalid(key, "", arrived_s, "request body is not a JSON object")
        named = request.get("model")
        model = named if isinstance(named, str) else ""
        known = model if model in self._model_json else "(other)"
        fault = self._faults.pick("groq", key, model, arrived_s)
        if fault is not None and fault.kind not in _AFTER:
            return self._faulty(key, request, model, known, fault, arrived_s)
        organisation = key.account
        assert isinstance(organisation, Organisation)  # noqa: S101 - narrows the type
        if organisation.standing != LIVE:
            return self._refuse(key, organisation.standing, known, arrived_s)
        if organisation.exhausted_until_s > arrived_s:
            return self._exhausted(key, organisation, known, arrived_s)
        if invalid := validate(request):
            return self._invalid(key, known, arrived_s, invalid.message, code=invalid.code, param=invalid.param)
        if known != model:
            return self._refuse(key, "model_not_found", known, arrived_s, named=model)
        if model in organisation.blocked_models:
            return self._refuse(key, organisation.blocked_models[model], known, arrived_s)
        return self._serve(key, organisation, request, model, fault, arrived_s)

    def _known(self, key: Key | None, secret: str) -> Key:
        return key or make_key("groq", secret, _UNKNOWN)

    def _serve(
        self,
        key: Key,
        organisation: Organisation,
        request: dict[str, Any],
        model: str,
        fault: Fault | None,
        arrived_s: float,
    ) -> Answer:
        now_s = self._clock()
        prompt = prompt_tokens(request)
        bound = reserved_tokens(request, self.settings.completion_tokens)
        requested = prompt + bound
        buckets = organisation.buckets_of(model)
        worst: tuple[float, Dimension, Bucket, int] | None = None
        for dimension, bucket, amount in (
            (RPM, buckets.rpm, 1),
            (RPD, buckets.rpd, 1),
            (TPM, buckets.tpm, requested),
            (TPD, buckets.tpd, requested),
        ):
            if bucket is None:
                continue
            wait_s = bucket.wait_s(now_s, amount)
            if wait_s and (worst is None or wait_s > worst[0]):
                worst = wait_s, dimension, bucket, amount
        if worst is not None:
            return self._over_limit(key, organisation, model, buckets, worst, arrived_s)
        for bucket, amount in ((buckets.rpm, 1), (buckets.rpd, 1), (buckets.tpm, requested), (buckets.tpd, requested)):
            if bucket is not None:
                bucket.take(now_s, amount)
        completion = complete(request, prompt_tokens=prompt, tokens=self.settings.completion_tokens, bound=bound)
        return self._accept(key, request, model, buckets, completion, requested, fault, arrived_s)

    def _accept(
        self,
        key: Key,
        request: dict[str, Any],
        model: str,
        buckets: ModelBuckets,
        completion: Completion,
        requested: int,
        fault: Fault | None,
        arrived_s: float,
    ) -> Answer:
        now_s = self._clock()
        latency_s = self.settings.latency_ms / 1_000
        if self.settings.jitter_ms:
            latency_s += self._rng.random() * self.settings.jitter_ms / 1_000
        request_id = next_id("req_")
        answer = Answer(200, headers=_headers(buckets, now_s, request_id), delay_s=latency_s)
        error = "the generation was stopped" if fault is not None and fault.kind == "stream_error" else None
        if request.get("stream"):
            answer.content_type = SSE
            answer.chunks = stream(completion, model, request_id, created=int(now_s), seconds=latency_s, error=error)
        else:
            answer.body = whole(completion, self._model_json[model], request_id, created=int(now_s), seconds=latency_s)
        unused = requested - completion.total_tokens
        if unused:
            answer.finish = lambda: _give_back(buckets, self._clock(), unused)
        code = "ok"
        if fault is not None:
            code = fault.kind
            spoil(answer, fault)
        self._ledger.record(
            Call(
                arrived_s,
                key,
                model,
                answer.status if answer.ending is not Ending.RESET else 0,
                code,
                accepted=True,
                delivered=fault is None,
                tokens=completion.total_tokens,
            )
        )
        return answer

    def _over_limit(
        self,
        key: Key,
        organisation: Organisation,
        model: str,
        buckets: ModelBuckets,
        worst: tuple[float, Dimension, Bucket, int],
        arrived_s: float,
    ) -> Answer:
        wait_s, dimension, bucket, amount = worst
        now_s = self._clock()
        limit = int(bucket.limit)
        if math.isinf(wait_s):
            self._ledger.record(Call(arrived_s, key, model, 413, "too_large"))
            return groq_errors.too_large(model, organisation.name, dimension, limit=limit, requested=amount)
        used = math.ceil(round(bucket.used_at(now_s), 6))
        return self._wait(key, model, dimension, (limit, used, amount), wait_s, arrived_s, buckets)

    def _exhausted(self, key: Key, organisation: Organisation, model: str, arrived_s: float) -> Answer:
        limit = organisation.limits.rpm or 1_000
        wait_s = organisation.exhausted_until_s - self._clock()
        return self._wait(key, model, RPM, (limit, limit, 1), wait_s, arrived_s, organisation.buckets_of(model))

    def _wait(
        self,
        key: Key,
        model: str,
        dimension: Dimension,
        figures: tuple[int, int, int],
        wait_s: float,
        arrived_s: float,
        buckets: ModelBuckets,
    ) -> Answer:
        """Refuse with 429, naming the wait in the words and in `retry-after`."""
        now_s = self._clock()
        limit, used, requested = figures
        told_s = retry_after(wait_s)
        self._ledger.record(Call(arrived_s, key, model, 429, dimension.short.lower(), cool_until_s=now_s + told_s))
        body = groq_errors.rate_limited(
            model, key.account.name, dimension, limit=limit, used=used, requested=requested, wait=go_duration(wait_s)
        )
        headers = _headers(buckets, now_s, next_id("req_"))
        return Answer(429, body, headers | {"retry-after": str(told_s)})

    def _refuse(
        self, key: Key, kind: str, model: str, arrived_s: float, *, named: str = "", status: int = 0, echo: str = ""
    ) -> Answer:
        answer = groq_errors.refuse(kind, named or model, status=status, echo=echo)
        self._ledger.record(Call(arrived_s, key, model, answer.status, kind, dead=groq_errors.REFUSALS[kind].dead))
        answer.headers = {"x-request-id": next_id("req_"), "x-groq-region": "sandbox"}
        return answer

    def _invalid(
        self,
        key: Key,
        model: str,
        arrived_s: float,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> Answer:
        self._ledger.record(Call(arrived_s, key, model, 400, code or "invalid_request"))
        return Answer(400, groq_errors.error_body(message, code=code, param=param))

    def _faulty(
        self, key: Key, request: dict[str, Any], model: str, known: str, fault: Fault, arrived_s: float
    ) -> Answer:
        """Answer a call that a fault hits before any work is done."""
        if fault.kind in groq_errors.REFUSALS:
            messages = request.get("messages")
            last = messages[-1] if isinstance(messages, list) and messages else {}
            echo = str(last.get("content", "")) if isinstance(last, dict) else ""
            return self._refuse(key, fault.kind, known, arrived_s, named=model, status=fault.status, echo=echo)
        organisation = key.account
        assert isinstance(organisation, Organisation)  # noqa: S101 - narrows the type
        buckets = organisation.buckets_of(known)
        if fault.kind == "rate_limit":
            limit = organisation.limits.rpm or 1_000
            wait_s = _TELLS_WAIT_S if fault.retry_after_s is None else fault.retry_after_s
            return self._wait(key, known, RPM, (limit, limit, 1), wait_s, arrived_s, buckets)
        if fault.kind == "too_large":
            limit = organisation.limits.tpm or 6_000
            answer = groq_errors.too_large(model, organisation.name, TPM, limit=limit, requested=limit + 1)
        elif fault.kind == "edge_blocked":
            answer = groq_errors.blocked_by_edge()
        elif fault.kind == "gateway_page":
            answer = groq_errors.gateway_page(fault.status or 502)
        else:
            answer = Answer(0, ending=Ending.RESET, hold_s=fault.hang_s if fault.kind == "hang_before" else 0.0)
        self._ledger.record(Call(arrived_s, key, known, answer.status, fault.kind, delivered=answer.status != 0))
        return answer


def spoil(answer: Answer, fault: Fault) -> None:
    """Let the answer to work that was done get lost on its way, as the fault says."""
    kind = fault.kind
    if kind == "reset_after":
        answer.ending = Ending.RESET
    elif kind in {"truncated", "stream_cut"}:
        answer.ending = Ending.TRUNCATED
    elif kind == "hang":
        answer.hold_s = fault.hang_s
    elif kind != "stream_error":
        answer.chunks = ()
        if kind == "html_ok":
            answer.body, answer.content_type = b"<html><body>Please wait</body></html>", HTML
        elif kind == "broken_json":
            answer.body, answer.content_type = answer.body[:20] + b"...", "application/json"
        else:
            page = groq_errors.gateway_page(fault.status or 502)
            answer.status, answer.body, answer.content_type = page.status, page.body, page.content_type


def _give_back(buckets: ModelBuckets, now_s: float, tokens: int) -> None:
    for bucket in (buckets.tpm, buckets.tpd):
        if bucket is not None:
            bucket.take(now_s, -tokens)


def _headers(buckets: ModelBuckets, now_s: float, request_id: str) -> dict[str, str]:
    """The rate limit headers: requests tell of the day, tokens of the minute."""
    headers = {"x-request-id": request_id, "x-groq-region": "sandbox"}
    for name, bucket in (("requests", buckets.rpd), ("tokens", buckets.tpm)):
        if bucket is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(int(bucket.limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(bucket.remaining(now_s))
            headers[f"x-ratelimit-reset-{name}"] = go_duration(bucket.reset_s(now_s))
    return headers
