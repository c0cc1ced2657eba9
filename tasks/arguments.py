"""Checking a task's arguments at the edge: one wrong field is one clear sentence."""

import json
import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from worker.errors import InvalidArguments

_SHOWN = 5
_NAME_RE = re.compile(r"[\w.\[\]-]{1,64}")


def _sendable(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        # From None: the error of an encoding quotes the text.
        raise ValueError("is not JSON (NaN, Infinity or broken Unicode inside)") from None
    return value


Text = Annotated[str, Field(min_length=0)]
"""Any text that UTF-8 can carry: pydantic looks only where there is a constraint. Half a character would fail inside
the provider's SDK, with an error whose arguments hold the whole request."""

Deadline = Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)]
"""How long a job may take from its first turn on, in seconds."""

JsonObject = Annotated[dict[str, Any], AfterValidator(_sendable)]
"""An object that is passed on as it is; what no provider could read is refused here."""


class Arguments(BaseModel):
    """Keyword arguments of a task. Unknown ones are refused, and no value ever shows in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=False)


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)

_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a parameter of this task",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "finite_number": "must be a finite number",
}
_BRANCHES = {"str", "list", "constrained-str"}


def check(model: type[ArgumentsT], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ArgumentsT:
    """Check what a job was called with.

    Args:
        model: What the task takes.
        args: Positional arguments; there must be none.
        kwargs: Keyword arguments.

    Raises:
        InvalidArguments: Something is wrong; the message names each field and never quotes a value.
    """
    if args:
        raise InvalidArguments(
            f"pass arguments by name, such as {next(iter(_names(model)))}=…: {len(args)} came without"
        )
    try:
        return model.model_validate(kwargs)
    except ValidationError as exc:
        details = exc.errors(include_input=False, include_url=False, include_context=False)
    # A list whose items are wrong is also reported as too short: that is no news.
    inner = {detail["loc"][:length] for detail in details for length in range(1, len(detail["loc"]))}
    details = [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in inner]
    sentences = [f"{_place(detail['loc'])}{_WORDS.get(detail['type']) or _plain(detail['msg'])}" for detail in details]
    more = len(sentences) - _SHOWN
    shown = "; ".join(dict.fromkeys(sentences[:_SHOWN])) + (f"; and {more} more" if more > 0 else "")
    if any(detail["type"] == "extra_forbidden" for detail in details):
        shown += f" (it takes {', '.join(_names(model))})"
    raise InvalidArguments(shown) from None


def _names(model: type[Arguments]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _place(location: tuple[int | str, ...]) -> str:
    # Parts such as `list[str]` name the branch of a union that was tried, not a field.
    parts = [str(part) for part in location if not (isinstance(part, str) and ("[" in part or part in _BRANCHES))]
    # A name that a stranger made up may be anything, a whole text for instance.
    parts = [part if _NAME_RE.fullmatch(part) else "(a strange name)" for part in parts]
    return f"{'.'.join(parts)}: " if parts else ""


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")
