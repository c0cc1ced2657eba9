"""The messages about files of Celery's options that cannot be written."""

import dbm
import os
from pathlib import Path
from typing import Any

import pytest
from celery import platforms

from worker.startup import command, files


@pytest.mark.parametrize("option", ["schedule", "pidfile", "logfile"])
def test_beat_names_the_option_of_a_file_without_a_folder(option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        files.check_beat_files({option: str(tmp_path / "gone" / "file")})
    assert (
        f"The file of --{option} cannot be written: check its folder. {tmp_path / 'gone'} does not "
        "exist, or this user may not look at it."
    ) in str(ended.value)


def test_a_folder_in_which_this_user_may_not_write_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SystemExit, match=f"This user may not write in {tmp_path}"):
        files.check_beat_files({"schedule": str(tmp_path / "file")})


def test_beat_with_a_scheduler_of_others_needs_no_file_for_its_schedule() -> None:
    files.check_beat_files({"schedule": "/nosuch/file", "scheduler": "theirs:Scheduler"})


@pytest.mark.parametrize("option", ["logfile", "pidfile"])
def test_a_bad_file_is_refused_before_the_process_goes_to_the_background(
    option: str, tmp_path: Path
) -> None:
    options = {option: str(tmp_path / "gone" / "%n.log"), "hostname": "w1@test"}
    files.check_detached(options)
    with pytest.raises(SystemExit, match=f"The file of --{option} cannot be written"):
        files.check_detached(options | {"detach": True})


def test_a_umask_that_is_not_a_number_is_refused() -> None:
    files.check_detached({"detach": True, "umask": "022"})
    with pytest.raises(SystemExit, match="--umask must be a number, octal if it begins with 0"):
        files.check_detached({"detach": True, "umask": "rwx"})


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (platforms.LockFailed("[Errno 30] Read-only file system: '/f'"), "The file of --pidfile"),
        (PermissionError(13, "Permission denied", "/f.dat"), "The file of --schedule cannot be us"),
        (dbm.error[0]("db type could not be determined"), "The file of --schedule cannot be used"),
    ],
)
def test_a_file_that_beat_cannot_open_is_named_in_a_sentence(
    error: Exception, sentence: str
) -> None:
    with pytest.raises(SystemExit, match=sentence), command._explain_beat_errors():
        raise error


def test_an_unreachable_broker_is_not_reported_as_a_file_of_beat() -> None:
    with pytest.raises(ConnectionError), command._explain_beat_errors():
        raise ConnectionRefusedError(111, "Connection refused")


def test_the_options_of_a_command_are_checked_before_it_runs() -> None:
    seen: list[Any] = []
    checked = command._checked(lambda **given: seen.append(("run", given)), seen.append)
    checked(schedule="file")
    assert seen == [{"schedule": "file"}, ("run", {"schedule": "file"})]
