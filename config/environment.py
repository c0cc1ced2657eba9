"""Reads the environment of the process, `.env`, and files with secrets.

No other module of this project reads settings from them.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from config.errors import SettingsError

FILE_SUFFIX = "_FILE"
_LARGEST_FILE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Lookup:
    """The result of a search for one name.

    Attributes:
        value: The value without surrounding blanks; None if there is none.
        variable: The variable with the value or the problem: NAME or NAME_FILE.
        problem: Why the named file gives no value; a text that completes "VARIABLE …".
        note: A warning about a value that is used; a text that completes "VARIABLE …".
    """

    value: str | None = field(repr=False)
    variable: str
    problem: str | None = None
    note: str | None = None


def read_text_of(path: Path) -> str | None:
    """Read a file that a person may have written; None if there is none.

    Raises:
        SettingsError: The path exists but is not a file, may not be read, or is not UTF-8 text.
    """
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")
        if path.is_char_device():  # /dev/null stands for no file
            return None
        path.lstat()  # from Python 3.14 on, `is_file` is also False for a forbidden path
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError:
        raise SettingsError([f"{path.name} cannot be read as UTF-8 text."]) from None
    except OSError as exc:
        words = f"{path.name} cannot be read ({exc.strerror})"
        advice = f"give user {os.geteuid()}, which runs this process, read access to it"
        raise SettingsError([f"{words}: {advice}."]) from None
    # If a file that Docker is to mount does not exist, Docker makes a folder.
    raise SettingsError(
        [f"{path.name} is a folder, a pipe or a link to nothing: make it a file, or remove it."]
    )


def read_dotenv(path: Path) -> dict[str, str]:
    """Read a `.env` file. A missing file counts as an empty one.

    Lines that cannot be parsed are left out. `unreadable_lines` reports them once; dotenv itself
    would log them at each read, without the file's name.

    Args:
        path: The file. `${NAME}` in it is replaced as in Docker Compose.

    Raises:
        SettingsError: The path exists but is not a file, may not be read, or is not UTF-8 text.
    """
    # We read the file instead of dotenv, whose decoding error would contain the file's bytes.
    text = read_text_of(path)
    if text is None:
        return {}
    statements = parse_stream(StringIO(text))
    readable = "".join(statement.original.string for statement in statements if not statement.error)
    return {name: value or "" for name, value in dotenv_values(stream=StringIO(readable)).items()}


def unreadable_lines() -> str | None:
    """Say which lines of the working directory's `.env` cannot be parsed; None if all can.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    statements = parse_stream(StringIO(read_text_of(Path(".env")) or ""))
    lines = [str(statement.original.line) for statement in statements if statement.error]
    if not lines:
        return None
    which = f"Line {lines[0]}" if len(lines) == 1 else f"Each of the lines {', '.join(lines)}"
    return f"{which} of .env has no effect: write NAME=value, with both quotes or none."


def merge(process: Mapping[str, str], dotenv: Mapping[str, str]) -> dict[str, str]:
    """Merge `.env` and the process environment, which wins.

    A NAME_FILE of the process also hides a NAME of `.env`. In one environment, NAME would win over
    NAME_FILE.
    """
    hidden = {
        name.removesuffix(FILE_SUFFIX)
        for name in process
        if name.endswith(FILE_SUFFIX) and process[name]
    }
    return {name: value for name, value in dotenv.items() if name not in hidden} | dict(process)


def read_environment() -> dict[str, str]:
    """Read the process environment over `.env` of the working directory, afresh on every call.

    Raises:
        SettingsError: `.env` is there but cannot be read.
    """
    return merge(os.environ, read_dotenv(Path(".env")))


def no_dotenv() -> str | None:
    """Say that the working directory has no `.env`; None if it has one.

    Most people expect the `.env` of the project's folder to be read.
    """
    if Path(".env").is_file():
        return None
    try:
        return f"There is no .env in {Path.cwd()}"
    except FileNotFoundError:
        return "There is no .env, because the working folder has been removed"


def look_up(environ: Mapping[str, str], name: str) -> Lookup:
    """Find a secret under NAME, or in the file that NAME_FILE names. A blank value counts as unset.

    Args:
        environ: The merged environment.
        name: The variable's plain name.
    """
    file_name = name + FILE_SUFFIX
    value, path = environ.get(name, "").strip(), environ.get(file_name, "").strip()
    if value:
        return Lookup(
            value,
            name,
            note=f"wins over {file_name}, which is also set: keep one of them" if path else None,
        )
    if not path:
        return Lookup(None, name)
    try:
        return Lookup(_file_content(Path(path)), file_name)
    except ValueError as exc:
        return Lookup(None, file_name, problem=str(exc))


def _first_bytes(path: Path) -> bytes:
    if "\0" in str(path):  # no file name can contain it
        raise FileNotFoundError
    # From Python 3.14 on, Path.is_file() does not report why a file cannot be accessed.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("does not name a plain file")
    with path.open("rb") as stream:
        return stream.read(_LARGEST_FILE_BYTES + 1)


def _file_content(path: Path) -> str:
    # The messages do not quote the path, because people put secrets into NAME_FILE by mistake.
    try:
        raw = _first_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("names a file that does not exist") from None
    except OSError as exc:
        raise ValueError(f"names a file that cannot be read ({exc.strerror})") from None
    if len(raw) > _LARGEST_FILE_BYTES:
        raise ValueError("names a file that is far too large for a secret")
    try:
        content = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("names a file that is not UTF-8 text") from None
    if not content:
        raise ValueError("names an empty file")
    return content
