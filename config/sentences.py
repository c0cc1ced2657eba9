"""Turns pydantic's errors about settings into sentences that do not quote the values."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

_PLAIN_WORDS: Final = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:.12g}",
    "finite_number": "must be a finite number",
    "literal_error": "must be one of {expected}",
    "value_error": "{error}",
}


def sentences_of(problems: Iterable[Any], variables: Mapping[tuple[str, ...], str]) -> list[str]:
    """Return a sentence for each problem of the settings.

    Args:
        problems: Pydantic's errors.
        variables: The environment variable of each field, by the field's path.
    """
    sentences = []
    for problem in problems:
        if problem["type"] == "default_factory_not_called":
            continue  # it follows from a setting that has its own sentence
        if not problem["loc"]:
            sentences += str(problem["ctx"]["error"]).splitlines()
            continue
        path = tuple(map(str, problem["loc"]))
        text = _PLAIN_WORDS.get(problem["type"], "is not valid").format(**problem.get("ctx", {}))
        unit = " (seconds)" if path[-1].endswith("_s") else ""
        sentences.append(f"{variables.get(path, '.'.join(path))} {text}{unit}.")
    return sentences
