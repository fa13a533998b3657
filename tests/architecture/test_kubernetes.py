"""The manifests name what the code names. Rendering and strict validation need kubectl: `make k8s-check`."""

import asyncio
import importlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from quantum_cli.fleet import SERVICES, VENUE
from quantum_common.bus import BusUnavailable, RedisBus
from quantum_common.bus.embedded import server_binary
from quantum_common.bus.server_check import check_server
from quantum_common.domain import SERVICE_PORTS
from quantum_common.service import FleetSettings
from quantum_common.service.names import FLEET_NAMES
from quantum_common.service.settings import validated
from quantum_common.testing import eventually, free_port

K8S = Path(__file__).parents[2] / "k8s"
PODS, BASE, PAPER = K8S / "components/pods", K8S / "base", K8S / "overlays/paper"
PORTS = {**SERVICE_PORTS, "monitor-svc": 8050}
TWO_INSTANCES = {
    "feature-svc", "xgb-agent", "lgbm-agent", "patchtst-agent", "nhits-agent", "meta-svc", "governer-svc",
    "executor-svc",
}  # fmt: skip
RUN_ONCE = {"recorder-svc", "trainer-svc", "exchange-sim"}
USERS_OF_JOBS = {"redis-setup": "admin", "market": "quantum"}
"""Folders that `quantum secrets` writes beside those of services."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def documents() -> list[dict[str, Any]]:
    paths = [path for folder in (BASE, PAPER) for path in sorted(folder.glob("*.yaml"))]
    return [
        document
        for path in paths
        if path.name not in ("kustomization.yaml", "trainer-market.yaml")
        for document in yaml.safe_load_all(path.read_text())
    ]


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in documents() if document["kind"] == kind}


def services() -> dict[str, dict[str, Any]]:
    return {name: row for name, row in of("Deployment").items() if row["metadata"]["labels"]["role"] == "service"}


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document["spec"]["template"]["spec"]
    return pod


def patch(name: str) -> dict[str, Any]:
    return pod_of(read(PODS / f"{name}.yaml"))


def settings() -> dict[str, str]:
    """The ConfigMap of the paper fleet."""
    found: dict[str, str] = {}
    for folder in (BASE, PAPER):
        [generator] = [
            row for row in read(folder / "kustomization.yaml")["configMapGenerator"] if row["name"] == "settings"
        ]
        found |= dict(literal.split("=", 1) for literal in generator["literals"])
    return found


def test_every_service_has_a_deployment_and_a_service_with_its_documented_port() -> None:
    assert services().keys() == PORTS.keys()
    exposed = of("Service")
    for name, deployment in services().items():
        [container] = pod_of(deployment)["containers"]
        image = "training" if name == "trainer-svc" else name  # its trainings need what `quantum deploy` needs
        assert (container["name"], container["image"]) == ("main", image)
        assert container["ports"] == [{"name": "http", "containerPort": PORTS[name]}]
        assert exposed[name]["spec"]["ports"] == [{"name": "http", "port": PORTS[name], "targetPort": "http"}]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert (
            deployment["spec"]["selector"]["matchLabels"]
            == exposed[name]["spec"]["selector"]
            == labels
            == {"app": name}
        )
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_every_file_is_part_of_its_kustomization() -> None:
    for folder in (BASE, PAPER, PODS):
        kustomization = read(folder / "kustomization.yaml")
        named = {*kustomization.get("resources", ()), *(row["path"] for row in kustomization.get("patches", ()))}
        assert {name for name in named if name.endswith(".yaml")} == {
            path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml"
        }


def test_every_image_of_ours_gets_its_name_and_the_same_version() -> None:
    images = {row["name"]: (row["newName"], row["newTag"]) for row in read(PODS / "kustomization.yaml")["images"]}
    used = {pod_of(row)["containers"][0]["image"] for kind in ("Deployment", "Job") for row in of(kind).values()}
    assert used == images.keys()
    assert images == {name: (f"quantum-trader/{name}", "latest") for name in used}


def test_pods_have_least_rights_and_no_variable_that_kubernetes_makes_up() -> None:
    pod = patch("pod")
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # META_SVC_PORT would stop meta-svc
    for body in (pod, pod_of(of("StatefulSet")["redis"])):
        [container] = body["containers"]
        assert body["securityContext"]["runAsNonRoot"] is True
        assert body["securityContext"]["runAsUser"] == 10001
        assert body["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    roles = {row["metadata"]["labels"]["role"] for kind in ("Deployment", "Job") for row in of(kind).values()}
    assert roles == {"service", "job"}
    selected = {row["path"]: row["target"]["labelSelector"] for row in read(PODS / "kustomization.yaml")["patches"]}
    assert selected["pod.yaml"] == "role in (service, job)"
    assert selected["service.yaml"] == "role=service"


def test_services_are_probed_where_the_kit_answers() -> None:
    [container] = patch("service")["containers"]
    paths = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {where["port"] for where in paths.values()} == {"http"}
    assert {name: where["path"] for name, where in paths.items()} == {
        "startupProbe": "/health/live", "livenessProbe": "/health/live", "readinessProbe": "/health/ready",
    }  # fmt: skip
    assert patch("service")["terminationGracePeriodSeconds"] > 5


def test_a_rolling_update_leaves_nobody_unavailable_and_what_runs_once_is_recreated() -> None:
    rolling = read(PODS / "rolling.yaml")["spec"]["strategy"]
    assert rolling == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    once = {name for name, row in services().items() if row["metadata"]["labels"].get("once") == "true"}
    assert once == RUN_ONCE
    for name, deployment in services().items():
        assert deployment["spec"]["replicas"] == (2 if name in TWO_INSTANCES else 1), name
        assert deployment["spec"].get("strategy") == ({"type": "Recreate"} if name in once else None), name
    budgets = of("PodDisruptionBudget")
    assert budgets.keys() == TWO_INSTANCES
    for name, budget in budgets.items():
        assert budget["spec"]["minAvailable"] == 1
        assert budget["spec"]["selector"] == {"matchLabels": {"app": name}}


def test_every_pod_sees_its_own_secrets_and_none_are_in_git() -> None:
    assert not of("Secret")
    for row in (*of("Deployment").values(), *of("Job").values()):
        name, labels = row["metadata"]["name"], row["metadata"]["labels"]
        named = [volume["secret"]["secretName"] for volume in pod_of(row).get("volumes", ()) if "secret" in volume]
        assert named == ([] if labels.get("secrets") == "none" else [USERS_OF_JOBS.get(name, name)]), name


def test_the_shared_settings_exist_and_validate_in_every_service(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = settings()
    assert shared.keys() - FLEET_NAMES == {"OMP_NUM_THREADS"}
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    made = {member.name: validated(settings_of(member.module)) for member in SERVICES}
    assert {each.host for each in made.values()} == {"0.0.0.0"}
    assert made["meta-svc"].url_of("governer-svc") == "http://governer-svc:8002"
    assert shared["QT_VENUE_URL"] == made["executor-svc"].url_of(VENUE.name)
    assert {each.clock for each in made.values()} == {"replay"}  # as `quantum play` moves the market


def settings_of(module: str) -> type[FleetSettings]:
    found = vars(importlib.import_module(f"{module}.settings")).values()
    return next(
        each
        for each in found
        if isinstance(each, type) and issubclass(each, FleetSettings) and each is not FleetSettings
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real server with the configuration of the StatefulSet."""
    (tmp_path / "users.acl").write_text("user default on nopass ~* &* +@all\n")
    port = free_port()
    here = [
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(tmp_path),
        "--aclfile",
        str(tmp_path / "users.acl"),
    ]
    with subprocess.Popen([server_binary(), BASE / "redis.conf", *here], stdout=subprocess.DEVNULL) as process:
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()


def test_a_server_with_this_configuration_keeps_what_the_bus_promises(server: str) -> None:
    async def facts() -> dict[str, str]:
        bus = RedisBus.connect(server)

        async def answer() -> dict[str, str]:
            try:
                return await bus.server_facts()
            except BusUnavailable:  # not up yet
                return {}

        try:
            return await eventually(answer)
        finally:
            await bus.close()

    found = asyncio.run(facts())
    assert check_server(found) == []
    assert found["appendfsync"] == "always"


def test_the_readme_is_short() -> None:
    assert len((K8S / "README.md").read_text().splitlines()) <= 60
