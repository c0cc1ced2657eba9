"""A worker's check of Redis before it takes a job: access, rights, eviction, cluster."""

import logging
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from config.errors import SettingsError
from config.settings import Settings, settings_from
from sandbox.redis import EmbeddedRedis, free_port
from tests.failover import NAME, SENTINEL_PASSWORD, sentinel
from tests.pages import ROOT
from tests.tls import handshakes
from worker.startup.redis import check_redis
from worker.startup.redis_rights import broker_rights, pool_rights, result_rights


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[Any]:
    with redis.Redis.from_url(server.url, decode_responses=True) as made:
        yield made
        made.acl_deluser("kw")
        made.config_set("maxmemory", 0)
        made.config_set("maxmemory-policy", "noeviction")


def settings(server: EmbeddedRedis, user: str = "") -> Settings:
    return settings_from(
        {"REDIS_URL": server.url.replace("://", f"://{user}@") if user else server.url}
    )


def test_a_redis_that_grants_every_right_is_not_mentioned(
    server: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    check_redis(settings(server))
    assert not caplog.messages


def test_the_check_passes_while_redis_is_down() -> None:
    check_redis(settings_from({"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}))


# The rules of an ACL user, and the part of Redis' message that the sentence has.
@pytest.mark.parametrize(
    ("rules", "password", "words"),
    [
        (
            "on >pw ~* &* +@all",
            "wrong",
            "does not let this worker in: WRONGPASS invalid username-password pair",
        ),
        ("off >pw ~* &* +@all", "pw", "does not let this worker in: WRONGPASS"),
        ("on >pw ~* resetchannels +@all", "pw", "a channel: PUBLISH celery-task-meta-check"),
        ("on >pw ~ai* &* +@all", "pw", "denies this worker a right (NOPERM "),
        ("on >pw ~* &* +@all -eval", "pw", "NOPERM "),
        ("on >pw ~* &* -@all", "pw", "does not let this worker in: NOPERM "),
    ],
)
def test_a_redis_that_refuses_the_worker_ends_the_start_with_its_words(
    server: EmbeddedRedis, client: Any, rules: str, password: str, words: str
) -> None:
    client.execute_command("ACL", "SETUSER", "kw", *rules.split())
    with pytest.raises(SettingsError) as caught:
        check_redis(settings(server, f"kw:{password}"))
    [sentence] = caught.value.sentences
    assert sentence.startswith(f"REDIS_URL: Redis at redis://kw:***@127.0.0.1:{server.port}/0 ")
    assert words in sentence
    assert sentence.count("NOPERM") + sentence.count("WRONGPASS") == 1


@pytest.mark.parametrize("command", ["lpush", "hset", "xadd", "setex", "evalsha", "time", "multi"])
def test_a_single_command_that_redis_denies_is_named_and_nothing_is_written(
    server: EmbeddedRedis, client: Any, command: str
) -> None:
    client.execute_command("ACL", "SETUSER", "kw", *f"on >pw ~* &* +@all -{command}".split())
    client.flushall()
    with pytest.raises(SettingsError, match=f"denies this worker a right .*{command}"):
        check_redis(settings(server, "kw:pw"))
    check_redis(settings(server))
    assert client.dbsize() == 0


def test_each_command_of_the_scripts_is_checked() -> None:
    pattern = re.compile(r"call\(\s*['\"]([A-Za-z]+)")
    scripts = [path.read_text() for path in (ROOT / "worker").rglob("*.lua")]
    used = {name.upper() for script in scripts for name in pattern.findall(script)}
    rights = broker_rights(settings_from({}), 0)
    rights.add(result_rights())
    rights.add(pool_rights("kw"))
    checked = {str(command[0]) for command in rights.commands + rights.writing}
    assert len(used) > 30
    assert used <= checked


def test_each_right_is_one_of_a_key_that_redis_sees_in_its_command(client: Any) -> None:
    keys = {
        "unacked": broker_rights(settings_from({}), 0),
        "celery-task-meta-check": result_rights(),
        "{kw:groq}": pool_rights("kw"),
    }
    for key, rights in keys.items():
        assert client.ping()
        for command in rights.writing:
            if command != ("TIME",):
                assert client.command_getkeys(*command)[0].startswith(key), command
        for command in rights.commands:
            client.execute_command(*command)  # raises if Redis rejects it
            if command[0] not in {"SCRIPT", "PUBLISH"}:
                assert len(client.command_getkeys(*command)) == 1, command
        # Redis reports a wrong number of arguments when the command is queued.
        with client.pipeline() as pipe:
            for command in rights.writing:
                pipe.execute_command(*command)
            replies = pipe.execute(raise_on_error=False)
        assert not [str(reply) for reply in replies if "number of arg" in str(reply)]
        client.flushall()


def test_a_port_without_tls_is_named(server: EmbeddedRedis) -> None:
    url = server.url.replace("redis://", "rediss://")
    with pytest.raises(SettingsError, match="answers without TLS on this port: write redis://"):
        check_redis(settings_from({"REDIS_URL": url}))


def test_a_sentinel_in_place_of_a_redis_is_named_and_the_other_way_round(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    with sentinel(tmp_path / "sentinel", watched=server.port) as port:
        for url, words in (
            (f"redis://:{SENTINEL_PASSWORD}@127.0.0.1:{port}/0", "is a sentinel: write sentinel:"),
            (
                f"redis://:{SENTINEL_PASSWORD}@127.0.0.1:{port}/1",
                "has no command SELECT: it is a sentinel",
            ),
            (
                f"sentinel://127.0.0.1:{server.port}/0?master_name={NAME}",
                "is not a sentinel: write redis://",
            ),
        ):
            with pytest.raises(SettingsError, match=words):
                check_redis(settings_from({"REDIS_URL": url}))


def test_a_database_that_redis_does_not_have_is_named(server: EmbeddedRedis) -> None:
    url = server.url.removesuffix("/0") + "/99"
    with pytest.raises(SettingsError, match="/99 does not have the database at the end of the URL"):
        check_redis(settings_from({"REDIS_URL": url}))


def test_a_redis_that_evicts_is_warned_of(
    server: EmbeddedRedis, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    check_redis(settings(server))
    assert not caplog.messages, "without a limit nothing is evicted"
    client.config_set("maxmemory", "50mb")
    with caplog.at_level(logging.WARNING):
        check_redis(settings(server))
    [message] = caplog.messages
    assert "its maxmemory-policy is allkeys-lru. Set it to noeviction" in message


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_a_certificate_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(["openssl", *made], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with handshakes(context) as port:
        url = f"rediss://localhost:{port}/0"
        with pytest.raises(SettingsError) as caught:
            check_redis(settings_from({"REDIS_URL": url}))
    assert str(caught.value) == (
        f"REDIS_URL: Redis at {url} shows a certificate that is not trusted (self-signed "
        "certificate):"
        " name its authority in ssl_ca_certs."
    )


def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    # cluster servers talk on a port 10,000 higher by default, which may not exist
    port = free_port()
    options = {"cluster-enabled": "yes", "appendonly": "no", "cluster-port": str(free_port())}
    with (
        EmbeddedRedis(data_dir=tmp_path, port=port, options=options) as cluster,
        pytest.raises(SettingsError) as caught,
    ):
        check_redis(settings(cluster))
    assert "is a Redis Cluster, which is not supported" in str(caught.value)
