"""Encodes a simulated completion as Groq does, in one piece or as a stream."""

import itertools
import json
import zlib
from dataclasses import dataclass, replace
from typing import Any

from sandbox.answer import encode
from sandbox.groq_request import example_of, requested_tool
from sandbox.models import reasoning_tokens

_TEXT = (
    "every key keeps its own pace and every job waits its turn until one is free again so nothing "
    "is lost "
    "and nothing is sent twice while the wheel goes round"
)
_WORDS = _TEXT.split()
_THOUGHT = "first see what is asked then what is known of it and then how to say it in few words"
_THOUGHTS = _THOUGHT.split()
_numbers = itertools.count(1)
_TEMPLATE = (
    b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,'
    b'"message":%b,'
    b'"logprobs":null,"finish_reason":"%b"}],"usage":%b,"system_fingerprint":"fp_sandbox",'
    b'"x_groq":{"id":"%b"},"service_tier":"on_demand"}'
)


def next_id(prefix: str) -> str:
    """Return an id like Groq's ids, unique in this process."""
    return f"{prefix}{next(_numbers):026d}"


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of the model.

    Attributes:
        text: The content; None if a tool is called, empty if reasoning used all allowed tokens.
        tool_calls: The calls, in Groq's format.
        finish_reason: `stop`, `length` or `tool_calls`.
        prompt_tokens: The number of tokens of the prompt.
        completion_tokens: The number of tokens of the answer, with the reasoning.
        reasoning: The text of the reasoning; empty if the model does not reason.
        reasoning_tokens: The number of tokens of the reasoning.
        shows_reasoning: Whether the request asks to see the reasoning.
    """

    text: str | None
    tool_calls: list[dict[str, Any]] | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str = ""
    reasoning_tokens: int = 0
    shows_reasoning: bool = True

    @property
    def shown_reasoning(self) -> str:
        """The reasoning that the answer contains."""
        return self.reasoning if self.shows_reasoning else ""

    @property
    def total_tokens(self) -> int:
        """The number of tokens that the request is charged."""
        return self.prompt_tokens + self.completion_tokens


def complete(request: dict[str, Any], *, prompt_tokens: int, tokens: int, bound: int) -> Completion:
    """Make the answer: a tool call or JSON if the request demands it, else some words.

    Args:
        request: The validated request.
        prompt_tokens: The tokens of the prompt.
        tokens: The natural length of the answer, in tokens.
        bound: The greatest length of the answer, in tokens.
    """
    used = min(tokens, bound)
    thinks = reasoning_tokens(request["model"], request.get("reasoning_effort"), tokens)
    if not thinks:
        return _answer(request, prompt_tokens=prompt_tokens, tokens=tokens, used=used)
    if bound <= thinks:
        answer = Completion("", None, "length", prompt_tokens, used)
        thinks = used
    else:
        spoken = _answer(
            request, prompt_tokens=prompt_tokens, tokens=tokens - thinks, used=used - thinks
        )
        answer = replace(spoken, completion_tokens=used)
    reasoning = " ".join(itertools.islice(itertools.cycle(_THOUGHTS), thinks))
    shows = request.get("include_reasoning") is not False
    return replace(answer, reasoning=reasoning, reasoning_tokens=thinks, shows_reasoning=shows)


def _answer(request: dict[str, Any], *, prompt_tokens: int, tokens: int, used: int) -> Completion:
    """Return the text after the reasoning: `used` of the `tokens` of its natural length."""
    function = requested_tool(request)
    if function is not None:
        arguments = example_of(function.get("parameters") or {"type": "object"})
        call = {
            "id": next_id("call_"),
            "type": "function",
            "function": {"name": function["name"], "arguments": json.dumps(arguments)},
        }
        return Completion(None, [call], "tool_calls", prompt_tokens, used)
    wanted = request.get("response_format")
    kind = wanted.get("type") if wanted else None
    if kind == "json_object":
        return Completion('{"answer": "sandbox"}', None, "stop", prompt_tokens, used)
    if wanted and kind == "json_schema":
        text = json.dumps(example_of(wanted["json_schema"].get("schema") or {"type": "object"}))
        return Completion(text, None, "stop", prompt_tokens, used)
    mark = zlib.crc32(encode(request["messages"][-1].get("content")))
    words = [f"Sandbox {mark:08x}:", *itertools.islice(itertools.cycle(_WORDS), max(0, used - 2))]
    return Completion(
        " ".join(words), None, "stop" if tokens <= used else "length", prompt_tokens, used
    )


def usage(completion: Completion, seconds: float) -> dict[str, Any]:
    """Groq's usage object."""
    details = {"completion_tokens_details": {"reasoning_tokens": completion.reasoning_tokens}}
    return {
        "queue_time": 0.001,
        "prompt_tokens": completion.prompt_tokens,
        "prompt_time": 0.001,
        "completion_tokens": completion.completion_tokens,
        "completion_time": round(seconds, 6),
        "total_tokens": completion.total_tokens,
        "total_time": round(seconds + 0.001, 6),
    } | (details if completion.reasoning_tokens else {})


def whole(
    completion: Completion, model: bytes, request_id: str, *, created: int, seconds: float
) -> bytes:
    """The body of an answer in one piece.

    Args:
        completion: The completion.
        model: The model's name, encoded as JSON.
        request_id: Groq's own id of the request.
        created: Seconds since the epoch.
        seconds: How long the completion took.
    """
    message: dict[str, Any] = {"role": "assistant"}
    message |= (
        {"content": completion.text}
        if completion.tool_calls is None
        else {"tool_calls": completion.tool_calls}
    )
    if completion.shown_reasoning:
        message["reasoning"] = completion.shown_reasoning
    return _TEMPLATE % (
        next_id("").encode(),
        created,
        model,
        encode(message),
        completion.finish_reason.encode(),
        encode(usage(completion, seconds)),
        request_id.encode(),
    )


def stream(
    completion: Completion,
    model: str,
    request_id: str,
    *,
    created: int,
    seconds: float,
    error: str | None = None,
) -> tuple[bytes, ...]:
    """The chunks of a streamed answer.

    The last chunk holds the usage, or the `error` that ended the stream.
    """
    head = {
        "id": next_id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "system_fingerprint": "fp_sandbox",
    }

    def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return b"data: " + encode(head | {"choices": [choice]} | more) + b"\n\n"

    chunks = [chunk({"role": "assistant", "content": ""}, x_groq={"id": request_id})]
    if completion.shown_reasoning:
        chunks.append(chunk({"reasoning": completion.shown_reasoning, "channel": "analysis"}))
    if completion.tool_calls is not None:
        chunks.append(chunk({"tool_calls": [{"index": 0} | completion.tool_calls[0]]}))
    elif completion.text:
        words = completion.text.split(" ")
        chunks += [
            chunk({"content": word if not number else " " + word})
            for number, word in enumerate(words)
        ]
    if error is not None:
        chunks = [*chunks[:2], chunk({}, x_groq={"id": request_id, "error": error})]
    else:
        counted = usage(completion, seconds)
        chunks.append(
            chunk(
                {},
                completion.finish_reason,
                usage=counted,
                x_groq={"id": request_id, "usage": counted},
            )
        )
    return (*chunks, b"data: [DONE]\n\n")
