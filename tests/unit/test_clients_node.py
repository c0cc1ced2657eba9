"""The client for Node without Node: the names in its types, and its package."""

import json
import re
from typing import Any

import pytest

from tests.pages import ROOT
from worker import results
from worker.arguments import admin, completion, email

FOLDER = ROOT / "clients/node"


def fields_of(file: str, interface: str) -> set[str]:
    """Return the fields of an interface, with those of the interface that it extends."""
    text = (FOLDER / "src" / file).read_text("utf-8")
    declaration = re.search(
        rf"interface {interface}(?: extends (\w+))? \{{\n(.*?)^\}}", text, re.DOTALL | re.MULTILINE
    )
    assert declaration, interface
    inherited = fields_of(file, declaration[1]) if declaration[1] else set()
    return inherited | set(re.findall(r"^  (\w+)\??:", declaration[2], re.MULTILINE))


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("arguments.ts", completion.CompletionArguments),
        ("arguments.ts", email.EmailArguments),
        ("arguments.ts", email.Attachment),
        ("arguments.ts", email.Tag),
        ("arguments.ts", email.Template),
        ("arguments.ts", admin.ResetArguments),
        ("arguments.ts", admin.QuoteArguments),
        ("results.ts", results.CompletionResult),
        ("results.ts", results.EmailResult),
        ("results.ts", results.KeyStatus),
        ("results.ts", results.ServiceStatus),
        ("results.ts", results.ResetResult),
        ("results.ts", results.QuoteResult),
    ],
)
def test_its_types_have_the_fields_of_the_worker(file: str, model: Any) -> None:
    names = {field.alias or name for name, field in model.model_fields.items()}
    assert fields_of(file, model.__name__) == names


def test_its_versions_are_pinned_and_it_brings_no_redis_client() -> None:
    package = json.loads((FOLDER / "package.json").read_text("utf-8"))
    assert all(version[0].isdigit() for version in package["devDependencies"].values())
    assert "dependencies" not in package
    assert set(package["peerDependencies"]) == set(package["peerDependenciesMeta"])
    assert not (FOLDER / "package-lock.json").exists()  # it would contain addresses
    python = (ROOT / "clients/python/pyproject.toml").read_text("utf-8")
    assert f'version = "{package["version"]}"' in python
