"""The dashboards as Grafana would read them: what it mends or ignores silently is an error here."""

from itertools import combinations
from typing import Any

import pytest
import yaml

from e2e.expressions import OPS, dashboards, fill

UNITS = {"none", "short", "s", "percentunit", "currencyUSD", "bytes", "ops", "reqps"}
"""Of Grafana's list, those that are used here."""
TYPES = {"stat", "timeseries", "bargauge", "state-timeline", "table", "heatmap"}
SOURCE = {"type": "prometheus", "uid": "prometheus"}
DASHBOARDS = dashboards()
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_there_are_two_and_they_link_to_each_other() -> None:
    assert {name: each["uid"] for name, each in DASHBOARDS.items()} == {
        "decisions-and-money.json": "quantum-money",
        "fleet.json": "quantum-fleet",
    }
    for dashboard in DASHBOARDS.values():
        (link,) = dashboard["links"]
        assert link["type"] == "dashboards"
        assert set(link["tags"]) <= set(dashboard["tags"])


@every_dashboard
def test_a_dashboard_opens_on_the_last_half_hour_and_follows(dashboard: dict[str, Any]) -> None:
    assert dashboard["time"] == {"from": "now-30m", "to": "now"}
    assert dashboard["refresh"] == "5s"
    assert dashboard["schemaVersion"] == 39
    assert "id" not in dashboard  # Grafana gives it; with one the file would overwrite another dashboard


@every_dashboard
def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(at["x"] >= 0 and at["x"] + at["w"] <= 24 and at["h"] > 0 for at in places)
    assert [pair for pair in combinations(places, 2) if overlap(*pair)] == []


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
    return not apart and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


@every_dashboard
def test_rows_of_panels_leave_no_holes(dashboard: dict[str, Any]) -> None:
    heights = {panel["gridPos"]["y"]: panel["gridPos"]["h"] for panel in dashboard["panels"]}
    below = 0
    for y in sorted(heights):
        assert y == below
        below = y + heights[y]


@every_dashboard
def test_every_panel_says_what_it_shows_in_which_unit(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert panel["type"] in TYPES, panel["title"]
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        steps = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert steps[0] is None, panel["title"]
        assert steps[1:] == sorted(steps[1:]), panel["title"]


@every_dashboard
def test_every_target_has_an_expression_a_legend_and_the_provisioned_source(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        assert panel["datasource"] == SOURCE, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == SOURCE, panel["title"]
            assert target["expr"], panel["title"]
            assert target["legendFormat"], panel["title"]
            assert target["instant"] != target["range"], panel["title"]


@every_dashboard
def test_every_variable_is_used_and_lists_its_values_from_the_provisioned_source(dashboard: dict[str, Any]) -> None:
    expressions = " ".join(target["expr"] for panel in panels(dashboard) for target in panel["targets"])
    for variable in dashboard["templating"]["list"]:
        assert f"${variable['name']}" in expressions
        assert variable["datasource"] == SOURCE
        assert variable["query"]["query"] == variable["definition"]
        assert variable["includeAll"]
        assert variable["allValue"] == ".+"


def test_the_provisioning_names_the_source_and_the_folder_of_the_dashboards() -> None:
    provisioning = OPS / "grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert {"type": source["type"], "uid": source["uid"]} == SOURCE
    scraped = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((provisioning / "dashboards/quantum.yml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")


def test_variables_are_filled_in_as_grafana_does_and_an_unknown_one_is_an_error() -> None:
    known = {"agent": ".+", "__range": "1800s"}
    assert fill('increase(x{agent=~"$agent"}[$__range])', known) == 'increase(x{agent=~".+"}[1800s])'
    assert fill("${agent}y", known) == ".+y"
    with pytest.raises(KeyError):
        fill("$nobody", known)
