"""The compose file against the lists of the fleet: a service that is forgotten, too open or too large is named here."""

import re
from pathlib import Path
from typing import Any

import yaml

from quantum_cli.credentials import OWNERS
from quantum_common.bus.users import ADMIN, OPERATOR
from quantum_common.domain import SERVICE_PORTS
from quantum_common.service.names import FLEET_NAMES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
ONCE = ("secrets", "redis-setup", "first-models")
MACHINE_MB, SYSTEM_MB = 4096, 512


def megabytes(limit: str) -> int:
    return int(limit[:-1]) * {"m": 1, "g": 1024}[limit[-1]]


def test_every_service_of_the_fleet_stands_in_it_with_its_port_on_this_machine_only() -> None:
    assert set(SERVICE_PORTS) <= set(SERVICES)
    for name, port in SERVICE_PORTS.items():
        assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"], name
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_each_container_runs_as_the_user_that_its_secrets_belong_to() -> None:
    for name in SERVICE_PORTS:
        assert SERVICES[name]["user"] == f"{OWNERS[name]}:10001", name
    assert SERVICES["conductor"]["user"] == f"{OWNERS[OPERATOR]}:10001"
    assert SERVICES["redis-setup"]["user"] == f"{OWNERS[ADMIN]}:10001"
    assert [name for name, service in SERVICES.items() if service.get("user", "").startswith("0")] == ["secrets"]


def test_no_container_may_write_its_root_gain_rights_or_fill_the_disk_with_logs() -> None:
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert "privileged" not in service, name
    assert [name for name, service in SERVICES.items() if "cap_add" in service] == ["secrets"]


def test_the_limits_fit_a_machine_of_four_gigabytes() -> None:
    limits = {name: megabytes(service["mem_limit"]) for name, service in SERVICES.items()}
    running = sum(limits[name] for name in SERVICES if name not in ONCE and "profiles" not in SERVICES[name])
    assert running <= MACHINE_MB - SYSTEM_MB
    beside_training = sum(limits[name] for name in ("first-models", "redis", "prometheus", "grafana"))
    assert beside_training <= MACHINE_MB - SYSTEM_MB
    assert all(service["cpus"] <= 2 for service in SERVICES.values())


def test_what_comes_from_elsewhere_is_pinned() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert all(image.startswith("quantum-trader/") or re.search(r":v?\d+\.\d+", image) for image in images)


def test_settings_in_it_and_in_the_example_are_settings_of_the_fleet() -> None:
    example = (ROOT / ".env.example").read_text()
    names = set(re.findall(r"^#?(QT_\w+)=", example, re.MULTILINE)) | set(re.findall(r"\b(QT_[A-Z_]+):", TEXT))
    assert names <= FLEET_NAMES


def test_it_stays_short() -> None:
    assert len(TEXT.splitlines()) <= 250


def test_grafana_finds_its_dashboards_and_its_source_where_they_are_mounted() -> None:
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    provider = yaml.safe_load((ROOT / "ops/grafana/provisioning/dashboards/quantum.yml").read_text())["providers"][0]
    assert mounts["./ops/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./ops/grafana/provisioning"] == "/etc/grafana/provisioning"
    source = yaml.safe_load((ROOT / "ops/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][
        0
    ]
    assert source["url"] == "http://prometheus:9090"
