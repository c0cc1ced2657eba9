"""The manifests of `deploy/kubernetes`: the properties that operators rely on."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings

FOLDER = Path(__file__).parents[2] / "deploy/kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    (manifest["kind"], manifest["metadata"]["name"]): manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((FOLDER / name).read_text())
}
WORKER, FLOWER = "keywheel-worker", "keywheel-flower"
DEPLOYMENTS = (WORKER, FLOWER)
API_VERSIONS = {"Deployment": "apps/v1", "PodDisruptionBudget": "policy/v1", "Service": "v1"}

# The cluster drops or refuses unknown fields.
POD_FIELDS = {
    "automountServiceAccountToken", "containers", "enableServiceLinks", "securityContext",
    "terminationGracePeriodSeconds", "topologySpreadConstraints", "volumes",
}  # fmt: skip
CONTAINER_FIELDS = {
    "command", "env", "envFrom", "image", "livenessProbe", "name", "ports", "readinessProbe",
    "resources", "securityContext", "startupProbe", "volumeMounts",
}  # fmt: skip
PROBE_FIELDS = {"exec", "failureThreshold", "httpGet", "periodSeconds", "timeoutSeconds"}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = OBJECTS["Deployment", name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    [only] = pod(name)["containers"]
    return dict(only)


def probes(name: str) -> dict[str, dict[str, Any]]:
    return {key: value for key, value in container(name).items() if key.endswith("Probe")}


def test_each_object_is_of_a_current_version() -> None:
    assert {kind: manifest["apiVersion"] for (kind, _), manifest in OBJECTS.items()} == API_VERSIONS


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_no_field_is_misspelt(name: str) -> None:
    assert set(pod(name)) <= POD_FIELDS
    assert set(container(name)) <= CONTAINER_FIELDS
    assert all(set(probe) <= PROBE_FIELDS for probe in probes(name).values())


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_selectors_find_the_pods(name: str) -> None:
    spec = OBJECTS["Deployment", name]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    component = name.removeprefix("keywheel-")
    assert labels["app.kubernetes.io/component"] == component


def test_the_budget_and_the_service_select_their_deployment() -> None:
    budget = OBJECTS["PodDisruptionBudget", WORKER]["spec"]
    deployment = OBJECTS["Deployment", WORKER]["spec"]
    assert budget["selector"] == deployment["selector"]
    assert budget["maxUnavailable"] < deployment["replicas"]
    service = OBJECTS["Service", FLOWER]["spec"]
    assert service["selector"] == OBJECTS["Deployment", FLOWER]["spec"]["selector"]["matchLabels"]
    [port], [opened] = service["ports"], container(FLOWER)["ports"]
    assert port["targetPort"] == opened["name"]
    assert opened["containerPort"] == Settings().flower_port


def test_a_worker_may_finish_every_job_that_it_has_begun() -> None:
    assert pod(WORKER)["terminationGracePeriodSeconds"] > Settings().task_time_limit_s


def test_only_readiness_depends_on_redis() -> None:
    path = {variable["name"]: variable["value"] for variable in container(WORKER)["env"]}[
        "KEYWHEEL_HEARTBEAT_PATH"
    ]
    alive = ["python", "-m", "keywheel.worker.probe", path]
    assert {name: probe["exec"]["command"] for name, probe in probes(WORKER).items()} == {
        "startupProbe": alive,
        "livenessProbe": alive,
        "readinessProbe": [*alive, "--ready"],
    }
    assert {probe["httpGet"]["path"] for probe in probes(FLOWER).values()} == {"/healthcheck"}
    assert path.startswith(next(m["mountPath"] for m in container(WORKER)["volumeMounts"][::-1]))


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_secrets_are_files_that_are_mounted(name: str) -> None:
    read = {entry["configMapRef"]["name"] for entry in container(name)["envFrom"]}
    made = {entry["name"]: entry["literals"] for entry in KUSTOMIZATION["configMapGenerator"]}
    values = dict(line.split("=", 1) for entry in read for line in made[entry])
    # The pages need no key of a provider.
    assert any("API_KEY" in key for key in values) == (name == WORKER)
    values |= {entry["name"]: entry["value"] for entry in container(name)["env"]}
    secret = [key for key in values if re.search(r"API_KEY|URL|AUTH|TOKEN|SECRET", key)]
    assert secret
    mounted = {entry["name"]: entry["mountPath"] for entry in container(name)["volumeMounts"]}
    secrets = {
        mounted[volume["name"]]: volume["secret"]
        for volume in pod(name)["volumes"]
        if "secret" in volume
    }
    for key in secret:
        assert key.endswith("_FILE")
        assert str(Path(values[key]).parent) in secrets
    assert {entry["defaultMode"] for entry in secrets.values()} == {0o440}
    assert {volume["name"] for volume in pod(name)["volumes"]} == set(mounted)


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_pod_has_no_more_rights_than_it_needs(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"] is True
    assert pod(name)["securityContext"]["fsGroup"] == 10001
    assert pod(name)["automountServiceAccountToken"] is False
    # Variables such as KEYWHEEL_FLOWER_PORT would look like settings.
    assert pod(name)["enableServiceLinks"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container(name)["resources"]["limits"]) == {"memory"}
    assert set(container(name)["resources"]["requests"]) == {"cpu", "memory"}


KEDA: dict[str, Any] = yaml.safe_load((FOLDER / "keda/scaledobject.yaml").read_text())
SCALED_FIELDS = {
    "advanced", "fallback", "maxReplicaCount", "minReplicaCount", "pollingInterval",
    "scaleTargetRef", "triggers",
}  # fmt: skip


def test_keda_scales_the_workers_and_never_to_zero() -> None:
    assert (KEDA["apiVersion"], KEDA["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = KEDA["spec"]
    assert set(spec) <= SCALED_FIELDS
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in OBJECTS
    assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert spec["fallback"]["replicas"] >= 1
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher", (
        "without metrics the number of workers must not shrink"
    )
    [trigger] = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert "keywheel_jobs_servable" in trigger["metadata"]["query"]
