"""The sources of settings: the process' environment, `.env`, and files of secrets."""

import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest

from config.current import get_settings, notices
from config.environment import merge, no_dotenv, read_dotenv, read_environment
from config.errors import SettingsError
from config.keys import discover_keys, require_any_key
from config.settings import settings_from

CANARY = "Zq9canaryQz7"

pytestmark = pytest.mark.usefixtures("bare_environment")


def test_the_process_wins_over_dotenv_and_a_blank_counts_as_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("KEYWHEEL_NAMESPACE=dotenv\nGROQ_MODEL=small\nKEYWHEEL_MAX_RETRIES=\n")
    monkeypatch.setenv("KEYWHEEL_NAMESPACE", "process")
    monkeypatch.setenv("FLOWER_PORT", "  ")
    settings = get_settings()
    assert (settings.namespace, settings.services["groq"].model) == ("process", "small")
    assert (settings.max_retries, settings.flower_port) == (5, 5555)


def test_a_value_wins_over_its_file_with_a_notice(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://file:1/0")
    environ = {"REDIS_URL": "redis://plain:1/0", "REDIS_URL_FILE": str(tmp_path / "url")}
    settings = settings_from(environ)
    assert settings.redis_url.get_secret_value() == "redis://plain:1/0"
    assert any(
        sentence.startswith("REDIS_URL wins over REDIS_URL_FILE")
        for sentence in notices(environ, settings)
    )


def test_a_file_named_by_the_process_wins_over_a_value_in_dotenv() -> None:
    assert merge({"A_FILE": "x", "B_FILE": ""}, {"A": "1", "B": "2"}) == {
        "A_FILE": "x",
        "B_FILE": "",
        "B": "2",
    }


def test_dotenv_may_be_missing_but_not_unreadable(tmp_path: Path) -> None:
    assert read_dotenv(tmp_path / ".env") == {}
    (tmp_path / ".env").write_bytes(b"ADMIN_TOKEN=\xff" + CANARY.encode())
    with pytest.raises(SettingsError, match=r"^\.env cannot be read as UTF-8 text") as caught:
        read_environment()
    assert CANARY not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_dotenv_that_this_user_may_not_read_says_so(tmp_path: Path) -> None:
    is_root, (plain, shut) = os.geteuid() == 0, (Path(".env"), Path("shut/.env"))
    shut.parent.mkdir()
    for path in (plain, shut):
        path.write_text("A=1")
    for path, mode in ((tmp_path, 0o711), (plain, 0), (shut.parent, 0)):
        path.chmod(mode)
    if is_root:
        os.seteuid(65_534)  # the user nobody
    try:
        for path in (plain, shut):
            with pytest.raises(SettingsError, match=r"^\.env cannot be read \(Permission denied\)"):
                read_dotenv(path)
    finally:
        if is_root:
            os.seteuid(0)
        shut.parent.chmod(0o700)


def test_dotenv_that_is_not_a_file_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    folder, link, none = (tmp_path / name for name in ("folder", "link", "none"))
    folder.mkdir()
    link.symlink_to(tmp_path / "nothing")
    none.symlink_to("/dev/null")
    for path in (folder, link):
        with pytest.raises(SettingsError, match=f"^{path.name} is a folder, a pipe or a link"):
            read_dotenv(path)
    assert read_dotenv(none) == {}


@pytest.mark.parametrize(
    ("content", "which"),
    [
        (f"GROQ_API_KEY {CANARY}\nA=1\n", "Line 1 of .env has"),  # without =
        (f"A=1\nGROQ_API_KEY: {CANARY}\n", "Line 2 of .env has"),  # as in YAML
        (f"GROQ_API_KEY=\"{CANARY}\nA=1\nB'=2\n{CANARY} x\n", "Each of the lines 1, 4 of .env has"),
    ],
)
def test_a_line_of_dotenv_that_cannot_be_parsed_is_named_once_and_not_quoted(
    content: str, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    Path(".env").write_text(content)
    assert read_dotenv(Path(".env"))["A"] == "1"
    assert caplog.messages == []
    get_settings.cache_clear()
    get_settings()
    [sentence] = [line for line in caplog.messages if ".env" in line]
    assert sentence == f"{which} no effect: write NAME=value, with both quotes or none."
    with pytest.raises(SettingsError, match=f"set at least one of .* {re.escape(sentence)}"):
        require_any_key([discover_keys("groq", read_environment())])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b" \n", "an empty file"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"x" * 70_000, "far too large"),
    ],
)
def test_a_secret_file_must_hold_a_short_text(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(SettingsError, match=f"^ADMIN_TOKEN_FILE names .*{reason}"):
        settings_from({"ADMIN_TOKEN_FILE": str(tmp_path / "token")})


def test_a_secret_in_a_file_that_will_not_do_is_named_by_the_variable_of_the_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("short")
    with pytest.raises(SettingsError, match=r"^ADMIN_TOKEN_FILE must have 16 "):
        settings_from({"ADMIN_TOKEN_FILE": str(tmp_path / "token")})


def test_a_name_too_long_for_a_file_is_a_sentence_and_not_shown() -> None:
    with pytest.raises(SettingsError, match=r"^ADMIN_TOKEN_FILE names a file") as caught:
        settings_from({"ADMIN_TOKEN_FILE": CANARY * 400})
    assert CANARY not in str(caught.value)


def test_a_working_folder_that_was_removed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert no_dotenv() == "There is no .env, because the working folder has been removed"


def test_a_folder_without_a_dotenv_is_named_even_if_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert no_dotenv() == f"There is no .env in {tmp_path}"
    (tmp_path / ".env").mkdir()
    assert no_dotenv() == f"There is no .env in {tmp_path}"
    (tmp_path / ".env").rmdir()
    (tmp_path / ".env").touch()
    assert no_dotenv() is None
    (tmp_path / ".env").unlink()
    tmp_path.rmdir()
    assert no_dotenv() == "There is no .env, because the working folder has been removed"


def test_another_fault_of_the_folder_is_not_called_its_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "cwd", Mock(side_effect=PermissionError))
    with pytest.raises(PermissionError):
        no_dotenv()
