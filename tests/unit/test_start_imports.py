"""The messages about a module that cannot be imported, and a warning that is an error."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from celery.exceptions import ImproperlyConfigured

from worker.startup import imports
from worker.startup.imports import explain_import_errors


def end_of(error: Exception) -> str:
    with pytest.raises(SystemExit) as ended, explain_import_errors():
        raise error
    return str(ended.value)


def test_a_module_that_is_missing_is_named_with_the_python_that_lacks_it() -> None:
    sentence = end_of(ModuleNotFoundError("No module named 'nosuch'", name="nosuch"))
    assert "The Python module nosuch cannot be imported (No module named 'nosuch'): " in sentence
    assert f"install it for {sys.executable}" in sentence


def test_a_module_of_another_version_is_named_with_its_path() -> None:
    error = ImportError("cannot import name 'Nosuch' from 'redis'", name="redis")
    assert "redis/__init__.py is not the one that is needed (cannot import name " in end_of(error)
    lacks = AttributeError("module 'redis' has no attribute 'Nosuch'", obj=sys.modules["redis"])
    assert "is not the one that is needed (module 'redis' has no attribute" in end_of(lacks)


def test_a_warning_that_is_an_error_says_what_makes_it_one() -> None:
    sentence = end_of(DeprecationWarning("x is\ndeprecated"))
    assert "unset PYTHONWARNINGS. The warning was a DeprecationWarning: x is deprecated" in sentence


def test_an_environment_in_which_our_pool_cannot_work_is_named() -> None:
    sentence = end_of(ImproperlyConfigured("remove USE_FAST_LOCALS from the environment"))
    assert sentence == "keywheel cannot start.\nremove USE_FAST_LOCALS from the environment."


@pytest.mark.parametrize("obj", [object(), end_of])
def test_a_bug_keeps_its_traceback(obj: object) -> None:
    bug = AttributeError("no attribute", obj=obj)
    with pytest.raises(AttributeError) as raised, explain_import_errors():
        raise bug
    assert raised.value is bug


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder with a module that hides another module with the same name."""
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    module = ModuleType("twice")
    module.__file__ = str(tmp_path / "first" / "twice.py")
    monkeypatch.setitem(sys.modules, "twice", module)
    return tmp_path


def test_a_module_that_hides_another_one_is_named_with_both_paths(named: Path) -> None:
    first, second = named / "first" / "twice.py", named / "second" / "twice.py"
    sentence = imports.about_import(ImportError("cannot import name 'x'", name="twice.sub"))
    assert sentence == (
        f"{first} hides the module twice that is needed, {second}: rename the first, or take its "
        "folder out of PYTHONPATH, or start in another folder."
    )
    second.unlink()
    assert imports.about_import(ImportError("cannot import name 'x'", name="twice")) == (
        f"The module twice at {first} is not the one that is needed (cannot import name 'x'): "
        "install the versions that Keywheel requires."
    )
    assert imports.about_import(ImportError("odd")) == (
        f"The Python module that is needed cannot be imported (odd): install it for "
        f"{sys.executable}, or start the Python that has it."
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ImportError("odd"), "The Python module that is needed cannot be imported (odd)"),
        (AttributeError("no x", obj=sys.modules["json"]), "The module json at "),
        (DeprecationWarning("x\n is old"), "The warning was a DeprecationWarning: x is old"),
        (
            UserWarning("running with superuser privileges"),
            (
                "Python turns each warning into an error here (PYTHONWARNINGS=error or -W error), "
                "also Celery's warning about a worker with superuser privileges: start it as "
                "another user (--uid), or unset PYTHONWARNINGS."
            ),
        ),
    ],
)
def test_an_import_that_fails_ends_the_start_with_a_sentence(
    error: Exception, sentence: str
) -> None:
    with (
        pytest.raises(SystemExit, match=r"^keywheel cannot start") as ended,
        imports.explain_import_errors(),
    ):
        raise error
    assert sentence in str(ended.value)


def test_a_start_ends_with_a_sentence_although_a_part_of_ours_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "worker.startup.no_start", None)
    assert imports._end("why").code == "keywheel cannot start.\nwhy"
