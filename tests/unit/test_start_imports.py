"""What is said of a module that cannot be imported, and of a warning that is an error."""

import sys

import pytest
from celery.exceptions import ImproperlyConfigured

from worker.startup.imports import imports_in_a_sentence


def said_of(error: Exception) -> str:
    with pytest.raises(SystemExit) as ended, imports_in_a_sentence():
        raise error
    return str(ended.value)


def test_a_module_that_is_missing_is_named_with_the_python_that_lacks_it() -> None:
    said = said_of(ModuleNotFoundError("No module named 'nosuch'", name="nosuch"))
    assert "The Python module nosuch cannot be imported (No module named 'nosuch'): " in said
    assert f"install it for {sys.executable}" in said


def test_a_module_of_another_version_is_named_with_its_place() -> None:
    error = ImportError("cannot import name 'Nosuch' from 'redis'", name="redis")
    assert "redis/__init__.py is not the one that is needed (cannot import name " in said_of(error)
    lacks = AttributeError("module 'redis' has no attribute 'Nosuch'", obj=sys.modules["redis"])
    assert "is not the one that is needed (module 'redis' has no attribute" in said_of(lacks)


def test_a_warning_that_is_an_error_says_what_makes_it_one() -> None:
    said = said_of(DeprecationWarning("x is\ndeprecated"))
    assert "unset PYTHONWARNINGS. The warning was a DeprecationWarning: x is deprecated" in said


def test_an_environment_in_which_our_pool_cannot_work_is_named() -> None:
    said = said_of(ImproperlyConfigured("remove USE_FAST_LOCALS from the environment"))
    assert said == "keywheel cannot start.\nremove USE_FAST_LOCALS from the environment."


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(AttributeError), imports_in_a_sentence():
        raise AttributeError("no attribute", obj=object())
