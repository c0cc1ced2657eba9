"""The sources of the Lua scripts of the asyncio pool and its transport."""

from importlib import resources
from pathlib import Path

import pytest

from worker.aio.lua_source import source

PACKAGES = ("worker.aio", "worker.aio.transport")
SCRIPTS = [
    (package, path.name.removesuffix(".lua"))
    for package in PACKAGES
    for path in (resources.files(package) / "lua").iterdir()
    if path.name.endswith(".lua")
]


@pytest.mark.parametrize(("package", "name"), SCRIPTS)
def test_a_script_has_the_libraries_that_it_requires_and_no_comments(
    package: str, name: str
) -> None:
    text = source(package, name)
    first = (resources.files(package) / "lua" / f"{name}.lua").read_text("utf-8").splitlines()[0]
    libraries = set(first.removeprefix("-- requires: ").split(", ")) - {"nothing"}
    named = {"clock": "clock_us", "entry": "unacked_entry", "parked": "park"}
    for library in libraries:
        assert text.count(f"local function {named.get(library, library)}(") == 1
    assert not [line for line in text.splitlines() if not line or line.lstrip().startswith("--")]


def test_a_script_that_does_not_say_what_it_requires_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some_package" / "lua"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "verb.lua").write_text("return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"some_package: the first line of verb\.lua"):
        source("some_package", "verb")
