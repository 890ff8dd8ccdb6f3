"""Alert rules and the dashboard ask for metrics that exist, by labels that they have, in PromQL that parses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import Metric

from streams import metrics
from streams.gateway import measures, webhooks
from streams.inbound import agents, polls
from streams.stack import compose

FOLDER = Path(compose.__file__).parent / "monitoring"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
IN_PROCESS = (metrics, webhooks, agents, polls)
PROMETHEUS_OWN = {"job", "instance", "le"}
DURATION = re.compile(r"(\d+(s|m|h|d))+")


def exported() -> dict[str, set[str]]:
    """Every series we export -> its labels."""
    found = {
        name + ("_total" if family.counter else ""): set(family.labels) for name, family in measures.FAMILIES.items()
    }
    found |= {measures.AGE: {"part"}, "up": set()}
    for collector in {each for module in IN_PROCESS for each in vars(module).values() if hasattr(each, "_labelnames")}:
        for family in collector.collect():
            assert isinstance(family, Metric)
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            found |= {family.name + suffix: set(collector._labelnames) for suffix in suffixes}
    recorded = {rule["record"]: grouping(rule["expr"]) for rule in RULES if "record" in rule}
    return found | recorded


def grouping(text: str) -> set[str]:
    """The labels that a recording rule leaves."""
    return set(re.findall(r"\w+", re.findall(r"by \(([^)]*)\)", text)[0])) - {"le"}


def parsed(text: str) -> promql_parser.Expr:
    filled = text.replace("$__rate_interval", "5m").replace("$org", ".*").replace("$connection", ".*")
    return promql_parser.parse(filled)


def selectors(node: object) -> Iterator[promql_parser.VectorSelector]:
    """The selectors in an expression, wherever they are."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, list):
        for each in node:
            yield from selectors(each)
    elif type(node).__module__.startswith("promql_parser"):
        for name in ("expr", "lhs", "rhs", "args", "param", "vector_selector", "vs"):
            yield from selectors(getattr(node, name, None))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_it_asks_for_what_is_there(name: str) -> None:
    known = exported()
    asked = list(selectors(parsed(EXPRESSIONS[name])))

    assert asked
    for selector in asked:
        assert selector.name in known
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= known[selector.name] | PROMETHEUS_OWN


def test_the_walk_finds_every_selector() -> None:
    text = 'histogram_quantile(0.9, sum by (le) (rate(a_bucket{x="1"}[5m]))) / abs(b) > c or max(d offset 1m) - 1'
    assert [each.name for each in selectors(promql_parser.parse(text))] == ["a_bucket", "b", "c", "d"]


def test_each_rule_is_one_that_prometheus_takes() -> None:
    for rule in RULES:
        assert ("alert" in rule) != ("record" in rule)
        assert set(rule) <= {"alert", "record", "expr", "for", "labels", "annotations"}
        assert DURATION.fullmatch(rule.get("for", "1s"))
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "warn")
            assert all(rule["annotations"][word] for word in ("summary", "next_step"))
    names = [rule.get("alert") or rule["record"] for rule in RULES]
    assert len(names) == len(set(names))


def test_an_alert_names_only_labels_that_its_expression_leaves() -> None:
    known = exported()
    for rule in RULES:
        named = set(re.findall(r"\$labels\.(\w+)", str(rule.get("annotations", ""))))
        left = set.union(*(known[s.name] for s in selectors(parsed(rule["expr"])))) | PROMETHEUS_OWN
        assert named <= left, rule


@pytest.mark.covers("R25", "C20")
def test_what_must_be_told_has_an_alert() -> None:
    told = {selector.name for rule in RULES if "alert" in rule for selector in selectors(parsed(rule["expr"]))}
    assert {
        "syncline_queue_age_seconds",
        "syncline_capture_safe",
        "syncline_cdc_missed_total",
        "syncline_unreconciled",
        "syncline_breaker_open",
        "syncline_intents",
        "syncline_dead_letters",
        "syncline_budget_used",
    } <= told


def test_the_panels_have_room() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.covers("F091")
def test_the_compose_file_brings_them() -> None:
    document = compose.document()
    source = yaml.safe_load(document["configs"]["grafana"]["content"])["datasources"][0]["uid"]
    for name, file in (("alerts", "alerts.yml"), ("dashboard", "dashboard.json")):
        assert document["configs"][name]["content"].replace("$$", "$") == (FOLDER / file).read_text()
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source}
    prometheus = yaml.safe_load(document["configs"]["prometheus"]["content"])
    mounted = {each["target"] for each in document["services"]["prometheus"]["configs"]}
    assert set(prometheus["rule_files"]) <= mounted
    [worker] = [job for job in prometheus["scrape_configs"] if job["job_name"] == "worker"]
    port = document["services"]["worker"]["environment"]["SYNCLINE_METRICS_PORT"]
    assert str(worker["dns_sd_configs"][0]["port"]) == port
    provider = yaml.safe_load(document["configs"]["dashboards"]["content"])["providers"][0]["options"]["path"]
    assert any(each["target"].startswith(provider) for each in document["services"]["grafana"]["configs"])
