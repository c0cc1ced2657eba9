"""The files in `deploy`, checked by kubectl and systemd if they are installed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_builds_the_manifests() -> None:
    folder = DEPLOY / "kubernetes"
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    built = list(yaml.safe_load_all(done.stdout))
    assert {manifest["metadata"]["namespace"] for manifest in built} == {"keywheel"}
    [given] = yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]
    images = set(re.findall(r"image: (\S+)", done.stdout))
    assert images == {f"{given['newName']}:{given['newTag']}"}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kustomize_lets_keda_choose_the_number_of_workers(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    file = tmp_path / "kubernetes/kustomization.yaml"
    file.write_text(file.read_text().replace("# components:", "components:"))
    done = subprocess.run(
        ["kubectl", "kustomize", str(file.parent)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    built = {
        (manifest["kind"], manifest["metadata"]["name"]): manifest
        for manifest in yaml.safe_load_all(done.stdout)
    }
    assert "replicas" not in built["Deployment", "keywheel-worker"]["spec"]
    assert built["ScaledObject", "keywheel-worker"]["metadata"]["namespace"] == "keywheel"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = DEPLOY / "systemd/keywheel-worker.service"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/keywheel/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert unit.name not in done.stderr
    assert done.returncode == 0
