"""What of this machine would fail each job ends the start with a sentence instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import SettingsError
from config.settings import Settings
from worker.startup.certificates import certificate_problems
from worker.startup.machine import check_machine

FEW_FILES = """
import resource
from config.keys import Discovery
from config.services import SERVICES
from config.settings import Settings
from worker.startup.certificates import certificate_problems
from worker.startup.machine import check_machine

found = dict.fromkeys(SERVICES, Discovery((), ()))
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
check_machine(Settings(worker_concurrency=100), found)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
check_machine(Settings(worker_concurrency=500), found)
"""


def test_a_process_lets_itself_open_as_many_files_as_its_jobs_need_or_does_not_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "(164, 200)\n", done.stderr
    assert (
        "KEYWHEEL_WORKER_CONCURRENCY (500) needs about 564 open files, and this process may have "
        "200: lower the former" in done.stderr
    )


@pytest.mark.parametrize(
    ("variable", "what"), [("SSL_CERT_FILE", "file"), ("SSL_CERT_DIR", "folder")]
)
def test_certificates_that_are_not_there_are_named(
    tmp_path: Path, variable: str, what: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} names a {what} that does not exist"):
        check_machine(Settings(), {}, {variable: str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("SSL_CERT_FILE", "SSL_CERT_FILE names a file without usable certificates"),
        ("SSL_CERT_DIR", "SSL_CERT_DIR names a folder without the hashed names that OpenSSL"),
    ],
)
def test_a_place_without_certificates_is_named(
    tmp_path: Path, variable: str, sentence: str
) -> None:
    (tmp_path / "roots.pem").write_text("no certificate")
    place = tmp_path if variable == "SSL_CERT_DIR" else tmp_path / "roots.pem"
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        check_machine(Settings(), {}, {variable: str(place)})


def test_one_of_several_folders_may_hold_the_certificates(tmp_path: Path) -> None:
    (tmp_path / "9f0a1b2c.0").write_text("a certificate under its hash")
    named = os.pathsep.join([str(tmp_path / "gone"), str(tmp_path)])
    assert not list(certificate_problems({"SSL_CERT_DIR": named}))


def test_a_heartbeat_that_cannot_be_written_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="KEYWHEEL_HEARTBEAT_PATH names a file that cannot be"):
        check_machine(Settings(heartbeat_path=str(tmp_path / "gone" / "heartbeat")), {})
