"""Turns pydantic's errors about arguments into sentences.

Each sentence names the field, never quotes its value, and avoids pydantic's own words.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

Problem = Mapping[str, Any]
"""One of pydantic's errors."""

_NAME_RE = re.compile(r"[\w.\[\]-]{1,64}")
_BRANCHES = {"str", "list", "dict", "int", "float", "bool", "constrained-str"}
_WORDS = {
    "missing": "is required",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "string_unicode": "must be a string in Unicode: it contains half a character",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}
_PLAIN = (
    ("Value error, ", ""),
    ("Input should be ", "must be "),
    ("String should have ", "must have "),
    ("List should have ", "must have "),
    ("Value should have ", "must have "),
    ("Tuple should have ", "must have "),
    (" after validation", ""),
)


def sentences_of(problems: Iterable[Problem]) -> list[str]:
    """Describe each problem in one sentence.

    A value of the wrong kind is one problem, even if its field allows several kinds.
    """
    return [f"{place_of(location)}{words}" for location, words in _by_kind(list(problems))]


def without_echoes(problems: Iterable[Problem]) -> list[Problem]:
    """Leave out "too short" for a list whose items are wrong.

    Pydantic reports both, but the first follows from the second.
    """
    listed = list(problems)
    inner = {
        problem["loc"][:length] for problem in listed for length in range(1, len(problem["loc"]))
    }
    return [
        problem
        for problem in listed
        if problem["type"] != "too_short" or problem["loc"] not in inner
    ]


def place_of(location: tuple[int | str, ...]) -> str:
    """Return the place of a problem, such as `messages.0.role: `; empty for the whole object."""
    # The producer may have used anything as a name, for instance a whole text.
    parts = [
        part if _NAME_RE.fullmatch(part) else "(a strange name)"
        for part in map(str, _fields(location))
    ]
    return f"{'.'.join(parts)}: " if parts else ""


def _fields(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in location if not _is_branch(part))


def _is_branch(part: int | str) -> bool:
    """Whether a part names a key or the branch of a union (`list[str]`), but not a field."""
    return isinstance(part, str) and ("[" in part or part in _BRANCHES)


def _by_kind(problems: list[Problem]) -> Iterator[tuple[tuple[int | str, ...], str]]:
    """Yield each problem's place and words.

    In a union, only the branch that fits the kind of the value counts.
    """
    for (union, field), several in groupby(problems, key=lambda problem: _union_of(problem["loc"])):
        group = list(several)
        if not union:
            yield from ((problem["loc"], words_for(problem)) for problem in group)
            continue
        of_right_kind = [problem for problem in group if not _is_wrong_kind(problem, len(field))]
        if of_right_kind:
            yield from ((problem["loc"], words_for(problem)) for problem in of_right_kind)
        else:
            kinds = dict.fromkeys(words_for(problem).removeprefix("must be ") for problem in group)
            if "a number" in kinds:
                kinds.pop("a whole number", None)  # "a number" includes it
            yield field, f"must be {' or '.join(kinds)}"


def _union_of(location: tuple[int | str, ...]) -> tuple[bool, tuple[int | str, ...]]:
    """Return whether a problem is inside a union, and the place of the outermost one."""
    for depth, part in enumerate(location):
        if _is_branch(part) and part != "[key]":
            return True, location[:depth]
    return False, ()


def _is_wrong_kind(problem: Problem, depth: int) -> bool:
    return len(problem["loc"]) == depth + 1 and str(problem["type"]).endswith("_type")


def words_for(problem: Problem) -> str:
    """Describe what is wrong with one value."""
    if words := _WORDS.get(problem["type"]):
        return words
    text = str(problem["msg"])
    for theirs, ours in _PLAIN:
        text = text.replace(theirs, ours)
    return text
