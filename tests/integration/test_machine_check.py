"""A fault of the machine that would fail each job stops the start with a sentence."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from config.errors import SettingsError
from config.keys import Discovery
from config.services import SERVICES
from config.settings import Settings
from worker.startup.certificates import certificate_problems, key_log_problem
from worker.startup.machine import check_machine

ROOT = Path(__file__).parents[2]
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
        "200: lower the number of jobs" in done.stderr
    )


def test_a_process_without_a_hard_limit_lets_itself_open_as_many_files_as_its_jobs_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    check_machine(Settings(worker_concurrency=500), dict.fromkeys(SERVICES, Discovery((), ())), {})
    assert raised == [(564, resource.RLIM_INFINITY)]


@pytest.mark.parametrize(
    ("variable", "kind"), [("SSL_CERT_FILE", "file"), ("SSL_CERT_DIR", "folder")]
)
def test_missing_certificates_are_named(tmp_path: Path, variable: str, kind: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} names a {kind} that does not exist"):
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
    path = tmp_path if variable == "SSL_CERT_DIR" else tmp_path / "roots.pem"
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        check_machine(Settings(), {}, {variable: str(path)})


def test_one_of_several_folders_may_hold_the_certificates(tmp_path: Path) -> None:
    (tmp_path / "9f0a1b2c.0").write_text("a certificate under its hash")
    named = os.pathsep.join([str(tmp_path / "gone"), str(tmp_path)])
    assert not list(certificate_problems({"SSL_CERT_DIR": named}))


def test_a_heartbeat_that_cannot_be_written_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="KEYWHEEL_HEARTBEAT_PATH names a file that cannot be"):
        check_machine(Settings(heartbeat_path=str(tmp_path / "gone" / "heartbeat")), {})


@pytest.mark.parametrize(
    ("command", "log_format"),
    [(["worker"], "json"), (["celery", "-A", "worker", "worker"], "text")],
)
def test_a_log_of_tls_keys_that_cannot_be_written_ends_the_start_with_a_sentence(
    tmp_path: Path, command: list[str], log_format: str
) -> None:
    environ = os.environ | {
        "SSLKEYLOGFILE": str(tmp_path / "gone" / "keys"),
        "KEYWHEEL_LOG_FORMAT": log_format,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environ, cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    sentence = (
        "SSLKEYLOGFILE names a file that cannot be written (No such file or directory): correct "
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    if log_format == "json":
        assert json.loads(done.stderr.splitlines()[-1])["level"] == "CRITICAL"


def test_a_log_of_tls_keys_that_can_be_written_is_not_a_problem(tmp_path: Path) -> None:
    assert key_log_problem({"SSLKEYLOGFILE": str(tmp_path / "keys")}) is None
    assert key_log_problem({"SSLKEYLOGFILE": ""}) is None


def test_a_configuration_of_another_program_with_celery_is_left_alone(tmp_path: Path) -> None:
    names = ("CELERY_CONFIG_MODULE", "CELERY_LOADER")
    environ = os.environ | dict.fromkeys(names, "not_there") | {"PYTHONPATH": str(ROOT)}
    program = "from worker.celery import app; print(app.conf.task_serializer)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout == "json\n", done.stderr
    for name in names:
        sentence = f"{name} is read by other programs with Celery and has no effect here."
        assert sentence in done.stderr
