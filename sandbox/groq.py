"""Groq: what a call is answered. Decisions only; the server writes them."""

import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sandbox import groq_errors
from sandbox.accounts import DEFAULT_TIER, LIVE, Accounts, Key, ModelBuckets, Organisation, make_key
from sandbox.answer import HTML, SSE, Answer, Ending, encode
from sandbox.faults import SPOILING, Fault, Faults
from sandbox.groq_completion import Completion, complete, next_id, stream, whole
from sandbox.groq_errors import ITPM, OTPM, RPD, RPM, TPD, TPM, Dimension
from sandbox.groq_request import Invalid, prompt_tokens, reserved_tokens, validate
from sandbox.ledger import Call, Ledger
from sandbox.limits import Bucket, go_duration, retry_after
from sandbox.models import LIVING, missing_code

_BEFORE = frozenset(
    {"reset_before", "hang_before", "edge_blocked", "gateway_page", "rate_limit", "too_large"}
)
KINDS = tuple(sorted({*groq_errors.REFUSALS, *SPOILING, *_BEFORE}))
"""The fault kinds that Groq knows."""

_UNKNOWN = Organisation("unknown")
_TELLS_WAIT_S = 60.0
_SOME_LIMIT = 1_000
_TOO_MANY = 429
_OTHER_MODEL = "(other)"
"""Stands for every model that does not exist, so that made-up names cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class GroqSettings:
    """How the simulated Groq behaves when all is well.

    Attributes:
        models: The models that exist for every organisation.
        latency_ms: How long a completion takes, in milliseconds.
        jitter_ms: How much longer it may take, by chance, in milliseconds.
        completion_tokens: How long an answer is where the request does not bound it more.
        stream_ms: The time between two pieces of a streamed answer, in milliseconds.
    """

    models: tuple[str, ...] = LIVING
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    completion_tokens: int = 24
    stream_ms: float = 0.0


@dataclass(slots=True)
class _Visit:
    """One call on its way through the decisions.

    Attributes:
        named: The model as the request names it.
        model: The same if it exists, else a stand-in.
    """

    key: Key
    arrived_s: float
    request: Any = None
    named: str = ""
    model: str = ""
    requested: int = 0

    @property
    def tier(self) -> str:
        """The service tier; `auto` is served as the default one."""
        tier = self.request.get("service_tier") if isinstance(self.request, dict) else None
        return tier if tier in {"flex", "performance"} else DEFAULT_TIER

    @property
    def organisation(self) -> Organisation:
        account = self.key.account
        assert isinstance(account, Organisation)  # noqa: S101 - narrows the type
        return account


@dataclass(frozen=True, slots=True)
class _Shortage:
    """A bucket that has too little for a call, and how long until it has enough."""

    wait_s: float
    dimension: Dimension
    limit: int
    used: int
    requested: int


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
            return self._refuse(
                _Visit(key or make_key("groq", secret, _UNKNOWN), arrived_s), "invalid_api_key"
            )
        organisation = _Visit(key, arrived_s).organisation
        if organisation.standing != LIVE:
            return self._refuse(_Visit(key, arrived_s), organisation.standing)
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
            secret: The key that the call came with.
            body: The raw body.
            arrived_s: When its headers were read.
        """
        key = self._accounts.lookup("groq", secret)
        if key is None or key.standing != LIVE:
            return self._refuse(
                _Visit(key or make_key("groq", secret, _UNKNOWN), arrived_s), "invalid_api_key"
            )
        visit = _Visit(key, arrived_s)
        try:
            visit.request = json.loads(body)
        except ValueError:
            return self._invalid(visit, Invalid("request body is not valid JSON"))
        if not isinstance(visit.request, dict):
            return self._invalid(visit, Invalid("request body is not a JSON object"))
        named = visit.request.get("model")
        visit.named = named if isinstance(named, str) else ""
        known = visit.named in self._model_json or visit.named in visit.organisation.model_limits
        visit.model = visit.named if known else _OTHER_MODEL
        fault = self._faults.pick("groq", key, visit.named, arrived_s)
        if fault is not None:
            return self._faulty(visit, fault)
        return self._turn_away(visit) or self._serve(visit)

    def _turn_away(self, visit: _Visit) -> Answer | None:
        """Refuse a call for who makes it or for what it asks; None lets it pass to the limits."""
        organisation = visit.organisation
        if organisation.standing != LIVE:
            return self._refuse(visit, organisation.standing)
        if organisation.exhausted_until_s > visit.arrived_s:
            limit = organisation.limits.rpm or _SOME_LIMIT
            wait_s = organisation.exhausted_until_s - self._clock()
            return self._wait(visit, _Shortage(max(wait_s, 0.001), RPM, limit, limit, 1))
        if invalid := validate(visit.request):
            return self._invalid(visit, invalid)
        if visit.model == _OTHER_MODEL:
            return self._refuse(visit, missing_code(visit.named))
        if visit.model in organisation.blocked_models:
            return self._refuse(visit, organisation.blocked_models[visit.model])
        return None

    def _serve(self, visit: _Visit) -> Answer:
        """Charge the buckets and complete, or say which one is short."""
        now_s = self._clock()
        prompt = prompt_tokens(visit.request)
        bound = reserved_tokens(visit.request, self.settings.completion_tokens)
        requested = visit.requested = prompt + bound
        buckets = visit.organisation.buckets_of(visit.model, visit.tier)
        charges = (
            (RPM, buckets.rpm, 1),
            (RPD, buckets.rpd, 1),
            (TPM, buckets.tpm, requested),
            (TPD, buckets.tpd, requested),
            (ITPM, buckets.itpm, prompt),
            (OTPM, buckets.otpm, bound),
        )
        shortage = _worst_shortage(charges, now_s)
        if shortage is not None:
            return self._wait(visit, shortage)
        for _, bucket, amount in charges:
            if bucket is not None:
                bucket.take(now_s, amount)
        completion = complete(
            visit.request, prompt_tokens=prompt, tokens=self.settings.completion_tokens, bound=bound
        )
        return self._accept(visit, completion, buckets, unused=requested - completion.total_tokens)

    def _accept(
        self, visit: _Visit, completion: Completion, buckets: ModelBuckets, *, unused: int
    ) -> Answer:
        now_s = self._clock()
        latency_s = self.settings.latency_ms / 1_000
        if self.settings.jitter_ms:
            latency_s += self._rng.random() * self.settings.jitter_ms / 1_000
        request_id = next_id("req_")
        answer = Answer(200, headers=_headers(buckets, now_s, request_id), delay_s=latency_s)
        fault, code = (
            self._faults.pick("groq", visit.key, visit.model, visit.arrived_s, spoiling=True),
            "ok",
        )
        if visit.request.get("stream"):
            error = (
                "the generation was stopped"
                if fault is not None and fault.kind == "stream_error"
                else None
            )
            answer.content_type = SSE
            answer.pause_s = self.settings.stream_ms / 1_000
            answer.chunks = stream(
                completion,
                visit.model,
                request_id,
                created=int(now_s),
                seconds=latency_s,
                error=error,
            )
        else:
            model = self._model_json.get(visit.model) or encode(visit.model)
            answer.body = whole(
                completion, model, request_id, created=int(now_s), seconds=latency_s
            )
        if unused:
            answer.finish = lambda: _give_back(buckets, self._clock(), unused)
        if fault is not None:
            code = fault.kind
            spoil(answer, fault)
        self._ledger.record(
            Call(
                visit.arrived_s,
                visit.key,
                visit.model,
                0 if answer.ending is Ending.RESET else answer.status,
                code,
                accepted=True,
                delivered=fault is None,
                tokens=completion.total_tokens,
                requested=visit.requested,
            )
        )
        return answer

    def _wait(self, visit: _Visit, shortage: _Shortage) -> Answer:
        """Refuse with 429, naming the wait in the words and in `retry-after`.

        With 413 where no wait helps.
        """
        now_s = self._clock()
        dimension, organisation = shortage.dimension, visit.organisation
        if math.isinf(shortage.wait_s):
            answer = groq_errors.too_large(
                visit.model,
                organisation.name,
                dimension,
                limit=shortage.limit,
                requested=shortage.requested,
                tier=visit.tier,
            )
            self._ledger.record(
                Call(visit.arrived_s, visit.key, visit.model, answer.status, "too_large")
            )
            return answer
        # The words tell it exactly, the header in whole seconds.
        cool_until_s = now_s + shortage.wait_s
        # It tells it for a call of this size: where tokens are short a smaller one may fit before.
        cool_tokens = visit.requested if dimension in {TPM, TPD, ITPM, OTPM} else 0
        self._ledger.record(
            Call(
                visit.arrived_s,
                visit.key,
                visit.model,
                429,
                dimension.short.lower(),
                requested=visit.requested,
                cool_until_s=cool_until_s,
                cool_tokens=cool_tokens,
            )
        )
        body = groq_errors.rate_limited(
            visit.model,
            organisation.name,
            dimension,
            limit=shortage.limit,
            used=shortage.used,
            requested=shortage.requested,
            wait=go_duration(shortage.wait_s),
            tier=visit.tier,
        )
        headers = _headers(organisation.buckets_of(visit.model, visit.tier), now_s, next_id("req_"))
        return Answer(429, body, headers | {"retry-after": str(retry_after(shortage.wait_s))})

    def _refuse(self, visit: _Visit, kind: str, *, status: int = 0, echo: str = "") -> Answer:
        answer = groq_errors.refuse(kind, visit.named, status=status, echo=echo)
        self._ledger.record(
            Call(
                visit.arrived_s,
                visit.key,
                visit.model,
                answer.status,
                kind,
                dead=groq_errors.REFUSALS[kind].dead,
            )
        )
        answer.headers = {"x-request-id": next_id("req_"), "x-groq-region": "sandbox"}
        return answer

    def _invalid(self, visit: _Visit, invalid: Invalid) -> Answer:
        self._ledger.record(
            Call(visit.arrived_s, visit.key, visit.model, 400, invalid.code or "invalid_request")
        )
        body = groq_errors.error_body(invalid.message, code=invalid.code, param=invalid.param)
        return Answer(400, body, {"x-request-id": next_id("req_"), "x-groq-region": "sandbox"})

    def _faulty(self, visit: _Visit, fault: Fault) -> Answer:
        """Answer a call that a fault hits before any work is done."""
        kind, organisation = fault.kind, visit.organisation
        if kind in groq_errors.REFUSALS:
            messages = visit.request.get("messages")
            last = messages[-1] if isinstance(messages, list) and messages else {}
            echo = str(last.get("content", "")) if isinstance(last, dict) else ""
            return self._refuse(visit, kind, status=fault.status, echo=echo)
        if kind == "rate_limit":
            limit = organisation.limits.rpm or _SOME_LIMIT
            wait_s = _TELLS_WAIT_S if fault.retry_after_s is None else fault.retry_after_s
            return self._wait(visit, _Shortage(wait_s, RPM, limit, limit, 1))
        if kind == "too_large":
            limit = organisation.limits.tpm or _SOME_LIMIT
            if fault.status == _TOO_MANY:
                # Seen in real traffic: a 429 that asks to wait although no wait can help.
                body = groq_errors.rate_limited(
                    visit.named,
                    organisation.name,
                    TPM,
                    limit=limit,
                    used=0,
                    requested=limit * 2,
                    wait="1m0s",
                    tier=visit.tier,
                )
                answer = Answer(_TOO_MANY, body, {"retry-after": "60"})
            else:
                answer = groq_errors.too_large(
                    visit.named,
                    organisation.name,
                    TPM,
                    limit=limit,
                    requested=limit * 2,
                    tier=visit.tier,
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
                visit.arrived_s,
                visit.key,
                visit.model,
                answer.status,
                kind,
                delivered=answer.status != 0,
            )
        )
        return answer


def spoil(answer: Answer, fault: Fault) -> None:
    """Let the answer to work that was done get lost on its way, as the fault says."""
    kind = fault.kind
    if kind == "reset_after":
        answer.ending = Ending.RESET
    elif kind in {"truncated", "stream_cut"}:
        answer.ending = Ending.TRUNCATED
    elif kind in {"hang", "stream_hang"}:
        answer.hold_s = fault.hang_s
        answer.ending = Ending.WHOLE if kind == "hang" else Ending.STALLED
    elif kind != "stream_error":
        answer.chunks = ()
        if kind == "html_ok":
            answer.body, answer.content_type = b"<html><body>Please wait</body></html>", HTML
        elif kind == "broken_json":
            answer.body, answer.content_type = answer.body[:20] + b"...", "application/json"
        else:
            page = groq_errors.gateway_page(fault.status or 502)
            answer.status, answer.body, answer.content_type = (
                page.status,
                page.body,
                page.content_type,
            )


def _worst_shortage(
    charges: Iterable[tuple[Dimension, Bucket | None, int]], now_s: float
) -> _Shortage | None:
    """The bucket that makes the call wait longest, if any does."""
    worst = None
    for dimension, bucket, amount in charges:
        wait_s = 0.0 if bucket is None else bucket.wait_s(now_s, amount)
        if bucket is not None and wait_s and (worst is None or wait_s > worst.wait_s):
            used = math.ceil(round(bucket.used_at(now_s), 6))
            worst = _Shortage(wait_s, dimension, int(bucket.limit), used, amount)
    return worst


def _give_back(buckets: ModelBuckets, now_s: float, tokens: int) -> None:
    for bucket in (buckets.tpm, buckets.tpd, buckets.otpm):
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
