# ruff: noqa: INP001 - found by pyproject.toml's backend-path, not a package
"""Builds the wheel: every package of the checkout becomes a part of one package, `keywheel`.

A wheel with `config`, `tasks` and `worker` at its top would shadow the packages of the same names
that many applications have, or be shadowed by them. So this copies the sources into a folder
`keywheel`, adds the prefix `keywheel.` wherever they name a module of ours, and has setuptools
build the copy. The checkout itself, an editable install of it and the source distribution keep the
names that the folders have.
"""

import ast
import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

PACKAGES = ("config", "worker", "tasks", "sandbox")
"""The packages in the wheel. The demo is only in the checkout; the image leaves the sandbox out."""
_PREFIX = "keywheel."
_OURS = "|".join(PACKAGES)
_MODULE_RE = re.compile(rf"(?!tasks\b)(?:{_OURS})(?:\.\w+)+")
_QUOTED_RE = re.compile(rf"(?<=[\"'])(?=(?:{_OURS})(?:\.\w+)+:[A-Za-z_])")
_COMMANDS = (
    (re.compile(r"(celery -A|python -m) worker\b(?!\.\w)"), r"\1 keywheel"),
    (re.compile(rf"python -m (?=({_OURS})\b)"), "python -m keywheel."),
)
_FILES = ("pyproject.toml", "README.md", "LICENSE")


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,  # noqa: ARG001 - the copy's metadata are built with it
) -> str:
    """Build the wheel.

    Args:
        wheel_directory: The folder for the wheel.
        config_settings: The caller's options for setuptools.
        metadata_directory: Unused.

    Returns:
        The file name of the wheel.
    """
    target = str(Path(wheel_directory).resolve())
    with tempfile.TemporaryDirectory(prefix="keywheel-build-") as folder:
        stage(Path.cwd(), Path(folder))
        with contextlib.chdir(folder):
            return build_meta.build_wheel(target, config_settings)


def stage(source: Path, target: Path) -> None:
    """Create the copy that setuptools builds.

    Args:
        source: The checkout, or an unpacked source distribution.
        target: An empty folder.
    """
    for name in _FILES:
        shutil.copy(source / name, target / name)
    project = target / "pyproject.toml"
    project.write_bytes(_prefix_quoted(project.read_bytes().decode()).encode())  # entry points
    shutil.copytree(Path(__file__).parent / "keywheel", target / "keywheel")
    for package in filter(lambda name: (source / name).is_dir(), PACKAGES):
        shutil.copytree(
            source / package,
            target / "keywheel" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for path in (target / "keywheel").rglob("*.py"):
        path.write_bytes(move_names(path.read_bytes(), root=source, file=path))
    for path in (target / "keywheel").rglob("*.html"):
        path.write_bytes(_name_commands(path.read_bytes().decode()).encode())


def move_names(source: bytes, *, root: Path, file: Path) -> bytes:
    """Add the prefix to each name of a module of ours, in imports and in strings.

    Args:
        source: The text of a module.
        root: The folder that contains our packages.
        file: The path of the module, for error messages.

    Raises:
        ValueError: A module is named in a form that cannot get the prefix.
    """
    lines = source.splitlines(keepends=True)
    # From the end, so that the positions in the tree stay valid for the changes that follow.
    for row, column, old, new in sorted(_changes(ast.parse(source), root), reverse=True):
        line = lines[row - 1]
        pattern = rb"\b" + re.escape(old.encode()) + rb"\b"
        after, count = re.subn(pattern, new.encode(), line[column:], count=1)
        if not (count and new):
            raise ValueError(
                f"{file}:{row}: the wheel cannot move `{old}` here: write "
                "`from package import module`, and each name in one piece"
            )
        lines[row - 1] = line[:column] + after
    return _name_commands(_prefix_quoted(b"".join(lines).decode())).encode()


def _changes(tree: ast.AST, root: Path) -> Iterator[tuple[int, int, str, str]]:
    """Yield each change: the row and column where the search begins, the old and the new text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module or ""):
            yield node.lineno, node.col_offset, str(node.module), f"{_PREFIX}{node.module}"
        elif isinstance(node, ast.Import):
            for alias in filter(lambda alias: _is_ours(alias.name), node.names):
                yield _changed_import(node, alias)
        elif isinstance(node, ast.Constant) and _is_module(node.value, root):
            yield node.lineno, node.col_offset, node.value, _PREFIX + node.value


def _changed_import(node: ast.Import, alias: ast.alias) -> tuple[int, int, str, str]:
    old = alias.name
    if alias.asname is not None:
        return alias.lineno, alias.col_offset, old, _PREFIX + old
    # `import worker` binds `worker`; no form of `import keywheel.worker` does.
    movable = "." not in old and len(node.names) == 1
    new = f"from keywheel import {old}" if movable else ""
    return node.lineno, node.col_offset, f"import {old}" if movable else old, new


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _is_module(value: object, root: Path) -> TypeGuard[str]:
    """Return whether a string is exactly the name of a module in one of our packages.

    Names such as `tasks.ai` do not count: the names of tasks begin with them, and do not change.
    """
    if not (isinstance(value, str) and _MODULE_RE.fullmatch(value)):
        return False
    path = root.joinpath(*value.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _prefix_quoted(text: str) -> str:
    """Add the prefix to each quoted `module:attribute`: settings of Celery, entry points."""
    return _QUOTED_RE.sub(_PREFIX, text)


def _name_commands(text: str) -> str:
    """Replace the commands in a text by the commands that a user of the wheel types."""
    for pattern, new in _COMMANDS:
        text = pattern.sub(new, text)
    return text


__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]
