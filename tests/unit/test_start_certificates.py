"""The messages of a start about certificates, without a server that has one."""

import ssl
from importlib import reload
from pathlib import Path
from typing import Any

import pytest

from worker.startup import certificates, redis_tls
from worker.startup.redis import refusal_of


def test_each_variable_of_openssl_is_checked_for_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "roots.pem").write_text("none")
    (tmp_path / "9f0a1b2c.0").mkdir()
    gone = str(tmp_path / "gone")
    unusable = "SSL_CERT_FILE names a file without usable certificates ("
    no_file = "SSL_CERT_FILE names a file that does not exist, so no certificate could be checked."
    no_folder = (
        "SSL_CERT_DIR names a folder that does not exist, so no certificate could be checked."
    )
    problems = certificates.certificate_problems
    assert list(problems({})) == []
    assert list(problems({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""})) == []
    assert list(problems({"SSL_CERT_FILE": gone, "SSL_CERT_DIR": gone})) == [no_file, no_folder]
    assert list(problems({"SSL_CERT_DIR": str(tmp_path)})) == []
    [problem] = problems({"SSL_CERT_FILE": str(tmp_path / "roots.pem")})
    assert problem.startswith(unusable)
    [problem] = problems({"SSL_CERT_FILE": str(tmp_path)})
    assert problem.startswith(unusable)
    assert not problem.endswith("(None).")


def test_a_file_for_the_keys_of_tls_that_cannot_be_written_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker import tls_key_log  # noqa: PLC0415 - it is the import that ends the start

    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    reload(tls_key_log)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "gone" / "keys"))
    sentence = (
        "SSLKEYLOGFILE names a file that cannot be written (No such file or directory): correct "
        "it, or unset it."
    )
    assert certificates.key_log_problem({"SSLKEYLOGFILE": str(tmp_path / "gone" / "k")}) == sentence
    with monkeypatch.context() as patch:
        patch.setattr(certificates.ssl, "SSLContext", None)
        with pytest.raises(TypeError):  # an error in our code keeps its traceback
            certificates.key_log_problem({"SSLKEYLOGFILE": "keys"})
    with pytest.raises(SystemExit) as ended:
        reload(tls_key_log)
    assert str(ended.value) == f"keywheel cannot start.\n{sentence}"


def test_a_handshake_that_the_server_ends_says_which_certificate_is_wanted() -> None:
    alert = ssl.SSLError(1, "x")
    alert.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert redis_tls.tls_refusal_of(alert) == (
        "does not accept this worker's certificate, or requires one "
        "(TLSV13_ALERT_CERTIFICATE_REQUIRED): name it in ssl_certfile and ssl_keyfile"
    )
    other = ssl.SSLError(1, "x")
    other.reason = "WRONG_VERSION_NUMBER"
    assert redis_tls.tls_refusal_of(other) is None
    assert redis_tls.tls_refusal_of(OSError("ALERT")) is None
    assert refusal_of(alert) == redis_tls.tls_refusal_of(alert)


@pytest.mark.parametrize(("code", "advice"), [(9, "renew it, "), (64, "name the host as ")])
def test_a_certificate_of_another_time_or_host_needs_no_authority(code: int, advice: str) -> None:
    refused = ssl.SSLCertVerificationError(1, "x")
    refused.verify_code, refused.verify_message = code, "words."
    problem = str(redis_tls.tls_refusal_of(refused))
    assert problem.startswith(f"shows a certificate that is not trusted (words): {advice}")


def test_no_connection_is_made_for_an_address_without_tls_or_a_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("it connects")

    monkeypatch.setattr(redis_tls.socket, "create_connection", refuse)
    assert redis_tls.unwanted_certificate("redis://127.0.0.1:1/0") is None
    assert redis_tls.mismatched_tls("unix:///run/redis.sock") is None
