"""The lock files: the packages that are installed, here and in the image."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = (
    "requirements.lock",
    "requirements-demo.lock",
    "requirements-runtime.lock",
    "requirements-build.lock",
)


def read_lock(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """The entries of a lock file by package name: the pinned requirement, and its options."""
    joined = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    entries: dict[str, tuple[Requirement, list[str]]] = {}
    for line in joined.splitlines():
        if line.strip() and not line.startswith("#"):
            pinned, *options = re.split(r"\s+(?=--)", line.strip())
            requirement = Requirement(pinned)
            assert canonicalize_name(requirement.name) not in entries, (
                f"{pinned} stands twice in {name}"
            )
            entries[canonicalize_name(requirement.name)] = (requirement, options)
    return entries


def versions(name: str) -> dict[str, str]:
    return {
        package: str(requirement.specifier) for package, (requirement, _) in read_lock(name).items()
    }


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_with_hashes(name: str) -> None:
    entries = read_lock(name)
    assert entries
    for requirement, options in entries.values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert options, f"{requirement} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), (
            requirement
        )


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address_and_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(
        r"^\s*(-i|-f|--(extra-)?index-url|--find-links|--trusted-host)\b", text, re.MULTILINE
    )


def declared(*groups: str) -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    texts = {
        "project": PROJECT["project"]["dependencies"],
        "build": PROJECT["build-system"]["requires"],
        **extras,
        "extras": [text for group in extras.values() for text in group],
    }
    return [Requirement(text) for group in groups for text in texts[group]]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        # .venv: everything, and the packages that build the project without build isolation
        ("requirements.lock", ("project", "extras", "build")),
        # .venv for the demo: the runtime, the sandbox, and the same build packages
        ("requirements-demo.lock", ("project", "sandbox", "build")),
        # the image's packages
        ("requirements-runtime.lock", ("project",)),
        # the image's first stage
        ("requirements-build.lock", ("build",)),
    ],
)
def test_a_lock_holds_what_the_project_declares(name: str, groups: tuple[str, ...]) -> None:
    entries = read_lock(name)
    for requirement in declared(*groups):
        locked, _ = entries[canonicalize_name(requirement.name)]
        (pin,) = locked.specifier
        assert requirement.specifier.contains(pin.version), (
            f"{name} holds {locked}, asked was {requirement}"
        )


@pytest.mark.parametrize("name", LOCKS[1:])
def test_demo_and_image_run_the_versions_that_were_tested(name: str) -> None:
    tested = versions("requirements.lock")
    assert versions(name).items() <= tested.items()


def test_the_image_gets_no_development_packages() -> None:
    shipped = read_lock("requirements-runtime.lock")
    assert (
        not {canonicalize_name(requirement.name) for requirement in declared("dev", "build")}
        & shipped.keys()
    )


def test_the_demo_gets_no_development_packages() -> None:
    development = {canonicalize_name(requirement.name) for requirement in declared("dev")}
    builder = {canonicalize_name(requirement.name) for requirement in declared("build")}
    assert not (development - builder) & read_lock("requirements-demo.lock").keys()


def test_the_image_gets_what_the_redis_transport_imports() -> None:
    # kombu.transport.redis needs packaging, which kombu 5.7 declares only in its extra "redis".
    assert "packaging" in read_lock("requirements-runtime.lock")
