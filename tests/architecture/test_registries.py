"""The few lists that a new service or agent must be added to; a forgotten one is named here."""

import importlib
import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from quantum_cli.fleet import SERVICES
from quantum_common.bus import Watermark
from quantum_common.contracts.envelope import PAYLOADS
from quantum_common.contracts.streams import REGISTRY, Keys, dead
from quantum_common.domain import AGENT_SERVICES, AGENTS, SERVICE_PORTS
from quantum_common.service import FleetSettings
from quantum_common.service.names import FLEET_NAMES
from quantum_common.service.settings import UnknownSetting, check_names

ROOT = Path(__file__).parents[2]
PACKAGES = {folder.name: folder for folder in (ROOT / "services").iterdir()}
NOT_SERVICES = {"QT_DATA_DIR"}


def settings_of(service: str) -> type[FleetSettings]:
    module = importlib.import_module(f"{service.replace('-', '_')}.settings")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, FleetSettings) and value is not FleetSettings
    )


def names_of(settings: type[FleetSettings]) -> set[str]:
    names = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names.add(str(alias) if alias else f"QT_{name.upper()}")
    return names


def test_the_list_of_settings_is_what_the_services_declare() -> None:
    declared = set().union(*(names_of(settings_of(service)) for service in PACKAGES))
    assert {name for name in declared if name.startswith("QT_")} | NOT_SERVICES == FLEET_NAMES


@pytest.mark.parametrize(("page", "generator"), [("settings", "generate"), ("metrics", "generate_metrics")])
def test_a_generated_page_is_what_the_services_declare(page: str, generator: str) -> None:
    spec = importlib.util.spec_from_file_location(generator, ROOT / f"docs/reference/{generator}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / f"docs/reference/{page}.md").read_text() == module.render(), "run `make docs`"


def test_f13_a_mistyped_setting_stops_start_up_and_is_named() -> None:
    check_names(["QT_SYMBOLS", "PATH", "META_VERSION", "QT_QPA_PLATFORM"])
    with pytest.raises(UnknownSetting, match="QT_MAX_EXPOSUR"):
        check_names(["QT_MAX_EXPOSUR"])


def test_every_service_stands_in_the_fleet_with_its_own_name_and_port() -> None:
    assert {member.name for member in SERVICES} == set(PACKAGES) == set(SERVICE_PORTS)
    assert len(set(SERVICE_PORTS.values())) == len(SERVICE_PORTS)
    for name in PACKAGES:
        assert settings_of(name).service == name


def test_every_agent_is_a_service_and_can_be_trained() -> None:
    trainable = {entry.name for entry in entry_points(group="quantum.agents")}
    assert trainable == set(AGENTS)
    assert set(AGENT_SERVICES.values()) <= set(PACKAGES)


def test_f05_every_stream_has_a_live_producer_and_its_consumers_exist() -> None:
    services = set(PACKAGES) | {"quantum"}
    for spec in REGISTRY:
        assert spec.producers, spec.name
        assert set(spec.producers) | set(spec.consumers) <= services, spec.name
        assert set(spec.kinds) <= set(PAYLOADS), spec.name


def test_every_kind_of_event_stands_on_exactly_one_stream() -> None:
    kinds = [kind for spec in REGISTRY for kind in spec.kinds]
    assert sorted(kinds) == sorted(PAYLOADS)


def test_f22_every_family_of_keys_has_its_owner_and_its_limit_in_the_guide() -> None:
    keys, guide = Keys(partitions=1, account="account"), (ROOT / "docs/guides/streams.md").read_text()
    names = [*(keys.stream(spec) for spec in REGISTRY), keys.counters("meta-svc"), keys.features_progress()]
    names += [keys.window("<symbol>", "<timeframe>"), keys.state("feature-svc", "<symbol>"), keys.lease("<service>")]
    names += [keys.account_state(service) for service in ("governer-svc", "executor-svc")]
    names += [Watermark("{p00}:<stream>", "", "", 0).key, dead("}<stream>")]
    assert [name for name in names if name.partition("}")[2] not in guide] == []
    makers = {name for name, value in vars(Keys).items() if callable(value) and not name.startswith("_")}
    assert makers - {"tag", "all_streams", "subscribed", "subscribed_in"} == {
        "stream", "lease", "window", "state", "account_state", "features_progress", "counters",
    }, "a new family of keys: write down its owner and limit"  # fmt: skip
