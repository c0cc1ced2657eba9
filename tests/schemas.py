"""The JSON Schemas of docs/schemas, as any program would use them."""

import json
from typing import Any

from jsonschema import Draft202012Validator

from tests.pages import ROOT

FOLDER = ROOT / "docs/schemas"


def check(task: str, part: str, value: Any) -> None:
    """Validate a task's `arguments` or `result` against the schema.

    Raises:
        jsonschema.ValidationError: The value does not match the schema.
    """
    schema = json.loads((FOLDER / f"{task}.{part}.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(value)
