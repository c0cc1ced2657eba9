"""The image and the compose file: the properties that operators rely on."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("worker", "flower")


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, with continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, rest in (line.split(maxsplit=1) for line in lines)]


def named(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def test_the_image_is_built_from_the_official_python_alone() -> None:
    assert {rest.split()[0] for rest in named("FROM")} == {"python:3.12-slim"}


def test_the_dockerfile_needs_no_frontend_from_a_registry() -> None:
    assert not re.search(
        r"^#\s*syntax\s*=", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.IGNORECASE
    )


def test_every_install_in_the_image_is_hash_checked_or_offline() -> None:
    steps = [
        step
        for rest in named("RUN")
        for step in rest.split("&&")
        if re.search(r"\bpip\b.*\b(install|wheel)\b", step)
    ]
    assert steps
    for step in steps:
        assert "--require-hashes" in step or ("--no-index" in step and "--no-deps" in step), step


def test_the_image_runs_as_an_unprivileged_user_by_number() -> None:
    # A number, so that Kubernetes' runAsNonRoot can check it.
    words = [word for word, _ in instructions()]
    assert named("USER") == ["10001:10001"]
    assert words.index("USER") > len(words) - 1 - words[::-1].index("FROM")


def test_the_image_starts_a_worker_and_logs_at_once() -> None:
    assert named("CMD") == ['["python", "-m", "keywheel"]']
    assert any("PYTHONUNBUFFERED=1" in rest for rest in named("ENV"))


def test_the_build_sees_only_what_it_copies() -> None:
    copied = {
        source
        for rest in named("COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in patterns if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert "**/.env*" in rules
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []


def test_the_services_are_redis_worker_and_flower() -> None:
    assert set(SERVICES) == {"redis", "worker", "flower"}
    assert SERVICES["redis"]["image"] == "redis:7-alpine"
    # One image, built by the worker's service only.
    assert {SERVICES[name]["image"] for name in OURS} == {"keywheel:local"}
    assert [name for name in SERVICES if "build" in SERVICES[name]] == ["worker"]
    assert SERVICES["flower"]["pull_policy"] == "never"


def test_only_flower_is_published_and_only_on_this_machine() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "flower": ["127.0.0.1:5555:5555"]
    }
    assert all("network_mode" not in service for service in SERVICES.values())


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert "privileged" not in service
    assert service.get("user", "10001") != "root"


def test_secrets_are_files_and_are_in_no_environment() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"(?<!\$)\$(?!\$)", text), (
        "docker inspect shows values that compose fills in"
    )
    files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert files == {
        "settings": ".env",
        "redis-password": "secrets/redis-password",
        "redis-url": "secrets/redis-url",
    }
    assert SERVICES["redis"]["secrets"] == ["redis-password"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/secrets/", ".env"} <= set(ignored)
    workdirs = named("WORKDIR")
    for name in OURS:
        service = SERVICES[name]
        assert service["environment"]["REDIS_URL_FILE"] == "/run/secrets/redis-url"
        settings = {"source": "settings", "target": f"{workdirs[-1]}/.env"}
        assert service["secrets"] == [settings, "redis-url"]
        assert "env_file" not in service


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_cannot_fill_the_machine(name: str) -> None:
    service = SERVICES[name]
    assert service["logging"]["options"] == {"max-size": "20m", "max-file": "5"}
    assert re.fullmatch(r"\d+[gm]", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 256


def test_redis_keeps_its_data_in_a_volume() -> None:
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]
    assert "redis-data" in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_worker_and_flower_start_once_redis_answers(name: str) -> None:
    assert SERVICES[name]["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_the_worker_can_be_scaled() -> None:
    worker = SERVICES["worker"]
    assert "container_name" not in worker
    assert "hostname" not in worker
    assert worker["deploy"]["replicas"] == 1


def test_the_worker_has_time_to_finish_and_is_probed_without_redis() -> None:
    worker = SERVICES["worker"]
    assert worker["stop_grace_period"] == "2m"
    path = worker["environment"]["KEYWHEEL_HEARTBEAT_PATH"]
    assert path.startswith("/tmp/")  # noqa: S108 - the container's only folder to write to
    probe = ["CMD", "python", "-m", "keywheel.worker.probe", path]
    assert worker["healthcheck"]["test"] == probe
    assert (ROOT / "worker/probe.py").exists()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_a_health_check_with_limits(name: str) -> None:
    assert {"test", "interval", "timeout", "retries", "start_period"} <= SERVICES[name][
        "healthcheck"
    ].keys()
