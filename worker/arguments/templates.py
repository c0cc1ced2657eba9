"""Fills the arguments of a job with the result of the previous job in a chain or a chord.

Celery passes this result as one positional argument. The texts of the other arguments are then
templates: `{text}` stands for the field `text` of the result. Without such a result, texts are not
templates, and braces have no meaning.
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from worker.arguments.sentences import place_of
from worker.errors import InvalidArguments

_TOKEN_RE: Final = re.compile(
    r"(?P<brace>\{\{|\}\})|\{(?P<path>\w+(?:\.\w+)*)(?P<safe>\|safe)?\}|(?P<wrong>[{}])"
)
_MARKUP: Final = "html"
"""The argument in which values are escaped for HTML, so that they appear unchanged."""
_PLAIN: Final = "notify"
"""The argument that is not a template: a model's answer must not decide where results go."""
_BETWEEN: Final = "\n\n"
"""The separator between the values of a field of several results."""
_DEEPEST: Final = 100
_LONGEST: Final = 50_000_000
"""The most characters of all inserted values; a template may name a long field many times."""

Location = tuple[int | str, ...]


def is_result(value: Any) -> bool:
    """Whether a positional argument may be a result: an object, or a list of them (a chord)."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(result, dict) for result in value)
    return isinstance(value, dict)


def filled(kwargs: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """Fill the templates in keyword arguments with the fields of a result.

    Args:
        kwargs: The arguments. Each text in them, also in lists and objects, is a template.
        result: The result of the previous job; for a chord, a list of results.

    Raises:
        InvalidArguments: A template is malformed, or names a field that the result does not have.
            The message names the argument and never quotes its text.
    """
    filling = _Filling(result)
    return {
        name: value if name == _PLAIN else filling.of(value, (name,))
        for name, value in kwargs.items()
    }


class _Filling:
    def __init__(self, result: Any) -> None:
        self._result = result
        self._left = _LONGEST

    def of(self, value: Any, location: Location) -> Any:
        if isinstance(value, str):
            return self._text(value, location)
        if len(location) > _DEEPEST:
            raise InvalidArguments(f"{place_of(location[:1])}is nested too deeply")
        if isinstance(value, dict):
            return {name: self.of(inner, (*location, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.of(inner, (*location, index)) for index, inner in enumerate(value)]
        return value

    def _text(self, template: str, location: Location) -> str:
        if "{" not in template and "}" not in template:
            return template
        return "".join(self._parts(template, location))

    def _parts(self, template: str, location: Location) -> Iterator[str]:
        end = number = 0
        for token in _TOKEN_RE.finditer(template):
            yield template[end : token.start()]
            end = token.end()
            if token["brace"]:
                yield token["brace"][0]
                continue
            number += 1
            where = f"{place_of(location)}placeholder {number}"
            if token["wrong"]:
                raise InvalidArguments(
                    f"{where} is malformed: write {{field}} for a field of the previous result, "
                    "and {{ or }} for a brace"
                )
            value = self._value(token["path"].split("."), where)
            self._left -= len(value)
            if self._left < 0:
                raise InvalidArguments(f"{where} makes the arguments too long")
            escaped = location[0] == _MARKUP and not token["safe"]
            yield html.escape(value) if escaped else value
        yield template[end:]

    def _value(self, path: list[str], where: str) -> str:
        results = self._result
        if isinstance(results, list):
            if not path[0].isdecimal():
                return _BETWEEN.join(_field(result, path, where) for result in results)
            if len(path) == 1:
                raise InvalidArguments(f"{where} names a result, but none of its fields")
        return _field(results, path, where)


def _field(value: Any, path: list[str], where: str) -> str:
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name[:9]) < len(value):
            value = value[int(name[:9])]
        else:
            raise InvalidArguments(f"{where} names a field that the previous result does not have")
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise InvalidArguments(f"{where} names a field that is neither a string nor a number")
