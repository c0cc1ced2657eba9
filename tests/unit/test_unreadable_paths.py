"""The messages about files and folders that this user may not read, on any version of Python.

`Path.is_file()` and `Path.is_dir()` raise for them before Python 3.14; from 3.14 they return False.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.environment import look_up, read_dotenv
from config.errors import SettingsError
from worker.startup import certificates, files

_NOBODY_UID = 65_534


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Give up root's rights, which ignore the modes of files."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(_NOBODY_UID)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def _let_others_pass(folder: Path) -> None:
    """Open the way to a temporary folder: with several processes it is one level deeper."""
    temporary = Path(tempfile.gettempdir())
    for above in (folder, *folder.parents):
        if temporary in above.parents:
            above.chmod(0o711)


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file and a folder, of which this user may read neither names nor contents."""
    _let_others_pass(tmp_path)
    folder = tmp_path / "closed"
    (folder / "certificates").mkdir(parents=True)
    (folder / "file").write_text("gsk_abc")
    (tmp_path / "open" / "9f0a1b2c.0").mkdir(parents=True)
    folder.chmod(0)
    with _as_nobody():
        yield folder
    folder.chmod(0o700)


def test_a_dotenv_in_a_closed_folder_is_not_taken_for_a_missing_one(closed_folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"^file cannot be read \(Permission denied\)"):
        read_dotenv(closed_folder / "file")


def test_a_secret_in_a_closed_folder_is_not_reported_as_missing(closed_folder: Path) -> None:
    secret = look_up({"GROQ_API_KEY_FILE": str(closed_folder / "file")}, "GROQ_API_KEY")
    assert secret.problem == "names a file that cannot be read (Permission denied)"


def test_the_option_of_a_file_in_a_closed_folder_is_named(closed_folder: Path) -> None:
    file = closed_folder / "logs" / "beat.log"
    with pytest.raises(SystemExit) as ended:
        files.check_beat_files({"logfile": str(file)})
    assert str(ended.value).endswith(
        "The file of --logfile cannot be written: check its folder. "
        f"{file.parent} does not exist, or this user may not look at it."
    )


def test_a_closed_folder_of_certificates_is_reported(closed_folder: Path) -> None:
    sentence = (
        "SSL_CERT_DIR names a folder that cannot be read (Permission denied), so no certificate "
        "could be checked."
    )
    for folder in (closed_folder, closed_folder / "certificates"):
        problems = certificates.certificate_problems({"SSL_CERT_DIR": str(folder)})
        assert list(problems) == [sentence]


def test_one_readable_folder_of_certificates_is_enough(closed_folder: Path) -> None:
    names = os.pathsep.join(map(str, (closed_folder, closed_folder.parent / "open")))
    assert list(certificates.certificate_problems({"SSL_CERT_DIR": names})) == []


def test_certificates_may_be_in_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    _let_others_pass(tmp_path)
    with _as_nobody():  # this user may open its files by their names, as OpenSSL does
        assert list(certificates.certificate_problems({"SSL_CERT_DIR": str(tmp_path)})) == []


def test_a_name_that_no_file_can_have_counts_as_missing() -> None:
    secret = look_up({"GROQ_API_KEY_FILE": "keys\0groq"}, "GROQ_API_KEY")
    assert secret.problem == "names a file that does not exist"
