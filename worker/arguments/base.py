"""Checks a task's arguments before it runs, and reports each wrong field in one sentence."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from worker.arguments.sentences import Problem, place_of, sentences_of, without_echoes
from worker.arguments.templates import filled, is_result
from worker.errors import InvalidArguments

_SHOWN = 5


def _sendable(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        # The cause is dropped, because the error of an encoding quotes the text.
        raise ValueError("is not JSON (NaN, Infinity or broken Unicode inside)") from None
    return value


def matching(pattern: str, sentence: str) -> AfterValidator:
    """Require that the whole text matches a pattern; the sentence describes it in words."""
    compiled = re.compile(pattern)

    def check_text(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(sentence)
        return text

    return AfterValidator(check_text)


def one_of(names: Iterable[str]) -> BeforeValidator:
    """Require one of these names; the error lists them."""
    known = tuple(names)
    *most, last = map(repr, known)
    sentence = f"must be {', '.join(most)} or {last}" if most else f"must be {last}"

    def check_name(value: Any) -> Any:
        if value not in known:
            raise ValueError(sentence)
        return value

    return BeforeValidator(check_name, json_schema_input_type=Literal[known])


Text = Annotated[str, Field(min_length=0)]
"""Any text that UTF-8 can encode. Pydantic checks this only if a field has a constraint.

Half a character (a lone surrogate) would fail inside the provider's SDK, with an error that
contains the whole request."""

Deadline = Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)]
"""How long a job may take from its first run on, in seconds."""

KeyText = Annotated[
    Text,
    matching(r"[!-~]{1,256}", "must be 1 to 256 visible characters of ASCII, without blanks"),
]
"""A key that the producer chose, by which a job or an email is recognized."""

JsonObject = Annotated[dict[str, Any], AfterValidator(_sendable)]
"""An object that is passed on unchanged. Values that are not JSON are refused."""


class Arguments(BaseModel):
    """Keyword arguments of a task. Unknown arguments are refused, and errors never quote a value.

    An unknown argument that is null counts as absent, because SDKs write null for unused arguments.

    Attributes:
        refused: Parameters of the provider's SDK that a job cannot have, each with the reason.
        follows: Whether the task takes the result of the previous job in a chain.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=False
    )

    refused: ClassVar[Mapping[str, str]] = {}
    follows: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict) or None not in given.values():
            return given
        known = _names(cls)
        return {name: value for name, value in given.items() if value is not None or name in known}


ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


def check(model: type[ArgumentsT], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ArgumentsT:
    """Check the arguments of a job.

    Args:
        model: The task's arguments.
        args: Positional arguments. There must be none, except the result of the previous job if the
            task takes it (`Arguments.follows`).
        kwargs: Keyword arguments.

    Raises:
        InvalidArguments: An argument is wrong. The message names each wrong field and never quotes
            a value.
    """
    if model.follows and kwargs and len(args) == 1 and is_result(args[0]):
        kwargs = filled(kwargs, args[0])
    elif args:
        chained = "; in a chain the previous result must be an object" if model.follows else ""
        raise InvalidArguments(
            f"pass arguments by name, such as {next(iter(_names(model)))}=…: {len(args)} came "
            f"without a name{chained}"
        )
    try:
        return model.model_validate(kwargs)
    except ValidationError as exc:
        details = without_echoes(
            exc.errors(include_input=False, include_url=False, include_context=False)
        )
    raise InvalidArguments(_summary(model, details)) from None


def _summary(model: type[Arguments], details: list[Problem]) -> str:
    """Describe the first few problems, and list the known names if there are unknown ones."""
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    sentences = list(_unknown(model, unknown))
    sentences = sentences_of(detail for detail in details if detail not in unknown) + sentences
    more = len(sentences) - _SHOWN
    shown = "; ".join(dict.fromkeys(sentences[:_SHOWN])) + (
        f"; and {more} more" if more > 0 else ""
    )
    return shown + _what_is_taken(model, unknown)


def _what_is_taken(model: type[Arguments], unknown: list[Problem]) -> str:
    """List the parameters of each model that was given an unknown parameter."""
    locations = [problem["loc"][:-1] for problem in unknown if not _why(model, problem)]
    takers = {taker for location in locations if (taker := _taker(model, location))}
    return "".join(
        f" ({'it' if len(takers) == 1 else _called(taker, model)} takes {', '.join(_names(taker))})"
        for taker in sorted(takers, key=lambda taker: taker.__name__)
    )


def _unknown(model: type[Arguments], problems: list[Problem]) -> Iterator[str]:
    for problem in problems:
        kind = "parameter of this task" if len(problem["loc"]) == 1 else "field here"
        yield place_of(problem["loc"]) + (_why(model, problem) or f"is not a {kind}")


def _why(model: type[Arguments], problem: Problem) -> str:
    """Say why a parameter of the provider's SDK is refused; empty if it is not one of `refused`."""
    name, *inner = problem["loc"]
    return "" if inner else model.refused.get(str(name), "")


def _called(taker: type[Arguments], model: type[Arguments]) -> str:
    return "the task" if taker is model else taker.__name__.lower()


def _names(model: type[Arguments]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _taker(model: type[Arguments], location: tuple[int | str, ...]) -> type[Arguments] | None:
    """Return the model at a location inside another model; None if there is none."""
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if not isinstance(part, str) or part not in fields:
            continue  # an index of a list, or the branch of a union
        inner = next(_models_in(fields[part].annotation), None)
        if inner is None:
            return None
        model = inner
    return model


def _models_in(annotation: Any) -> Iterator[type[Arguments]]:
    if isinstance(annotation, type) and issubclass(annotation, Arguments):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
