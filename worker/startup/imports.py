"""Ends a start with a sentence if a module that it needs is missing, or hidden by another one.

It imports none of our other modules, because one of them may be the hidden module.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

from celery.exceptions import ImproperlyConfigured

_STRICT = "Python turns each warning into an error here (PYTHONWARNINGS=error or -W error)"
_ROOT = "superuser privileges"


@contextmanager
def explain_import_errors() -> Iterator[None]:
    """End the process with a sentence if the block cannot import a module.

    Raises:
        SystemExit: An import failed; the message says what to change.
    """
    try:
        yield
    except ImportError as exc:
        raise _end(about_import(exc)) from exc
    except AttributeError as exc:
        if not isinstance(exc.obj, ModuleType):
            raise
        raise _end(_about(exc.obj.__name__, exc)) from exc
    except ImproperlyConfigured as exc:
        raise _end(f"{exc}.") from exc
    except Warning as exc:
        raise _end(about_warning(exc)) from exc


def about_import(exc: ImportError) -> str:
    """Say what to change so that a module can be imported."""
    return _about(exc.name or "", exc)


def about_warning(exc: Warning) -> str:
    """Say what to change if Python turned a warning into an error."""
    words = " ".join(str(exc).split())
    if _ROOT in words:
        return (
            f"{_STRICT}, also Celery's warning about a worker with {_ROOT}: start it as another "
            "user (--uid), or unset PYTHONWARNINGS."
        )
    kind = type(exc).__name__
    return f"{_STRICT}: unset PYTHONWARNINGS. The warning was a {kind}: {words}"


def _about(name: str, exc: Exception) -> str:
    package = name.partition(".")[0]
    path = _path_of(sys.modules.get(package))
    if path is None:
        return (
            f"The Python module {name or 'that is needed'} cannot be imported ({exc}): install it "
            f"for {sys.executable}, or start the Python that has it."
        )
    if hidden := _hidden_by(path, package):
        return (
            f"{path} hides the module {package} that is needed, {hidden}: rename the first, or "
            "take its folder out of PYTHONPATH, or start in another folder."
        )
    return (
        f"The module {package} at {path} is not the one that is needed ({exc}): install the "
        "versions that Keywheel requires."
    )


def _hidden_by(path: str, package: str) -> str | None:
    """Return the path of the next module of this name on Python's path."""
    for folder in sys.path:
        spec = PathFinder.find_spec(package, [folder])
        if spec is not None and (found := _path_of(spec)) not in {None, path}:
            return found
    return None


def _path_of(found: Any) -> str | None:
    """Return the path of a module, or of its spec; None if it has no file."""
    origin = getattr(found, "__file__", None) or getattr(found, "origin", None)
    return origin if isinstance(origin, str) else None


def _end(sentence: str) -> SystemExit:
    try:
        from worker.startup.no_start import no_start  # noqa: PLC0415 - this import may fail as well
    except Exception:  # noqa: BLE001 - the sentence already names the cause
        return SystemExit(f"keywheel cannot start.\n{sentence}")
    return no_start(sentence)
