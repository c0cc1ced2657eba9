"""Validates requests for completions as Groq does, and counts their tokens."""

from dataclasses import dataclass
from typing import Any

from sandbox.models import EFFORTS, reasons

_ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function"})
_MESSAGE_FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning"}
)
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("frequency_penalty", -2, 2),
    ("presence_penalty", -2, 2),
    ("max_tokens", 1, 131_072),
    ("max_completion_tokens", 1, 131_072),
    ("n", 1, 1),
)
_WHOLE = frozenset({"max_tokens", "max_completion_tokens", "n"})
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why a request is refused with 400."""

    message: str
    code: str | None = None
    param: str | None = None


def validate(request: dict[str, Any]) -> Invalid | None:
    """Find what is wrong with a request, in the order in which Groq looks."""
    model = request.get("model")
    if not isinstance(model, str) or not model:
        return Invalid(
            "property 'model' is missing" if model is None else "'model' : value must be a string"
        )
    messages = request.get("messages")
    if messages is None:
        return Invalid("property 'messages' is missing")
    if not isinstance(messages, list):
        return Invalid("'messages' : value must be an array")
    if not messages:
        return Invalid("'messages' : minimum number of items is 1")
    for number, message in enumerate(messages):
        if invalid := _validate_message(number, message):
            return invalid
    return (
        _validate_ranges(request)
        or _validate_format(request, messages)
        or _validate_tools(request)
        or _validate_reasoning(request)
    )


def _validate_message(number: int, message: Any) -> Invalid | None:
    if not isinstance(message, dict):
        return Invalid(f"'messages.{number}' : value must be an object")
    if message.get("role") not in _ROLES:
        return Invalid(f"'messages.{number}' : discriminator property 'role' has invalid value")
    if unknown := sorted(message.keys() - _MESSAGE_FIELDS):
        return Invalid(f"'messages.{number}' : property '{unknown[0]}' is unsupported")
    content = message.get("content")
    if content is None and message["role"] != "assistant":
        return Invalid(f"'messages.{number}' : property 'content' is missing")
    if content is not None and not isinstance(content, str | list):
        return Invalid(f"'messages.{number}.content' : value must be a string or an array")
    return None


def _validate_ranges(request: dict[str, Any]) -> Invalid | None:
    for name, low, high in _RANGES:
        value = request.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else int | float):
            return Invalid(
                f"'{name}' : value must be {'an integer' if name in _WHOLE else 'a number'}",
                param=name,
            )
        if value < low:
            return Invalid(f"'{name}' : number must be at least {low}", param=name)
        if value > high:
            return Invalid(f"'{name}' : number must be at most {high}", param=name)
    return None


def _validate_format(request: dict[str, Any], messages: list[Any]) -> Invalid | None:
    wanted = request.get("response_format")
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in {"text", "json_object", "json_schema"}:
        return Invalid(
            "'response_format' : discriminator property 'type' has invalid value",
            param="response_format",
        )
    if kind == "json_object" and not any(
        "json" in str(message.get("content", "")).lower() for message in messages
    ):
        return Invalid(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of "
            "type 'json_object'.",
            param="messages",
        )
    if kind == "json_schema" and not isinstance(wanted.get("json_schema"), dict):
        return Invalid(
            "'response_format' : property 'json_schema' is missing", param="response_format"
        )
    return None


def _validate_tools(request: dict[str, Any]) -> Invalid | None:
    tools = request.get("tools")
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict)
        and isinstance(tool.get("function"), dict)
        and tool["function"].get("name")
        for tool in tools
    ):
        return Invalid("'tools' : every tool must have a function with a name", param="tools")
    return None


def _validate_reasoning(request: dict[str, Any]) -> Invalid | None:
    effort, format_ = request.get("reasoning_effort"), request.get("reasoning_format")
    if format_ is not None and request.get("include_reasoning") is not None:
        return Invalid(
            "cannot specify both 'include_reasoning' and 'reasoning_format'",
            param="reasoning_format",
        )
    if not reasons(request["model"]):
        return None
    if effort is not None and effort not in EFFORTS:
        return Invalid(
            f"'reasoning_effort' : must be one of {', '.join(EFFORTS)}", param="reasoning_effort"
        )
    if format_ is not None:
        return Invalid(
            "'reasoning_format' is not supported with this model", param="reasoning_format"
        )
    return None


def prompt_tokens(request: dict[str, Any]) -> int:
    """Count the tokens of the messages: about one per four characters."""
    chars = 0
    for message in request["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            chars += len(content)
        elif content:
            chars += sum(len(part.get("text") or "") for part in content if isinstance(part, dict))
    return max(1, -(-chars // _CHARS_PER_TOKEN))


def reserved_tokens(request: dict[str, Any], default: int) -> int:
    """Return how many tokens a request reserves for its answer."""
    return int(request.get("max_completion_tokens") or request.get("max_tokens") or default)


def requested_tool(request: dict[str, Any]) -> dict[str, Any] | None:
    """The function that the answer has to call, if the request demands a call."""
    tools = request.get("tools")
    choice = request.get("tool_choice")
    if not tools or choice in (None, "none", "auto"):
        return None
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        return next((tool["function"] for tool in tools if tool["function"]["name"] == name), None)
    function: dict[str, Any] = tools[0]["function"]
    return function


def example_of(schema: Any) -> Any:
    """Return a small value that fits a JSON schema: types, properties, items, enum, const only."""
    if not isinstance(schema, dict):
        return "sandbox"
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        return {name: example_of(part) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [example_of(schema.get("items"))]
    simple: dict[Any, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}
    return simple.get(kind, "sandbox")
