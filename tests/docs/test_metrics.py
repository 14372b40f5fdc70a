"""What docs, dashboard and alerts say of the broker's metrics is so.

There is no Prometheus here: of an expression its names, labels and brackets are held against what
the broker exports, not its meaning.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from jupyter_gpu_share.broker.account import Figures
from jupyter_gpu_share.broker.metrics import Machine, metrics_text

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "etc/grafana/jupyter-gpu-share.json"
RULES = ROOT / "etc/prometheus/jupyter-gpu-share.rules.yaml"
PREFIX = "jupyter_gpu_share_broker_"
#: Labels that Prometheus adds to whatever it asks for.
ADDED = {"instance", "job"}
FUNCTIONS = {
    *("and", "by", "count", "histogram_quantile", "increase", "max", "max_over_time", "on"),
    *("rate", "sum", "topk"),
}
GPU = {
    "uuid": "GPU-1",
    "model": "A100",
    "memory_bytes": 1,
    "held_bytes": 1,
    "free_bytes": 1,
    "other_bytes": 1,
}


def exported() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of all series by name, those of histograms by the names of their series."""
    machine = Machine(gpus=[GPU], totals={("user", "ann"): Figures()})
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(metrics_text(machine, by_user=True).decode()):
        for sample in family.samples:
            found[sample.name] = family.type, set(sample.labels)
    return found


EXPORTED = exported()


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


EXPRESSIONS = {
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    },
    **{rule["alert"]: rule["expr"] for rule in alerts()},
}


def faults(expression: str) -> list[str]:
    """What of an expression cannot be."""
    text = re.sub(r"\$__(rate_interval|range)\b", "5m", expression)
    found = []
    known: set[str] = {*ADDED}
    # A metric with what stands in its braces.
    for name, _, matchers in re.findall(r"\b(up|jupyter_\w+)\s*(\{([^}]*)\})?", text):
        _, labels = EXPORTED.get(name, ("", set())) if name != "up" else ("", set())
        if name != "up" and name not in EXPORTED:
            found.append(f"no metric {name}")
        known |= labels
        named = re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers)
        found += [f"{name} has no label {each}" for each in named if each not in labels | ADDED]
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", text):
        found += [f"no label {each}" for each in re.findall(r"\w+", grouped) if each not in known]
    rest = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on)\s*\([^)]*\)", " ", text)
    words = set(re.findall(r"[A-Za-z_]\w*", rest)) - EXPORTED.keys() - {"up"}
    found += [f"no function {each}" for each in sorted(words - FUNCTIONS)]
    for opened, closed in ("()", "{}", "[]"):
        if text.count(opened) != text.count(closed):
            found.append(f"{opened} without {closed}")
    for counter in re.findall(r"(?:rate|increase)\(\s*(\w+)", text):
        if EXPORTED.get(counter, ("counter",))[0] not in ("counter", "histogram"):
            found.append(f"{counter} is no counter")
    return found


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_every_expression_is_of_metrics_that_there_are(where: str) -> None:
    assert faults(EXPRESSIONS[where]) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        (f"sum({PREFIX}kernel)", f"no metric {PREFIX}kernel"),
        (f'{PREFIX}kernels{{stat="idle"}}', f"{PREFIX}kernels has no label stat"),
        (f"sum by (user) ({PREFIX}kernels)", "no label user"),
        (f"rate({PREFIX}kernels[5m])", f"{PREFIX}kernels is no counter"),
        (f"summ({PREFIX}kernels)", "no function summ"),
        (f"sum({PREFIX}kernels", "( without )"),
    ],
)
def test_a_wrong_expression_is_seen(expression: str, fault: str) -> None:
    assert fault in faults(expression)


def test_every_panel_has_a_place_of_its_own() -> None:
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_alert_says_what_is_and_what_to_do() -> None:
    labels = ADDED.union(*(labels for _, labels in EXPORTED.values()))
    for rule in alerts():
        assert {"summary", "description"} == rule["annotations"].keys(), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels
        grouped = set(re.findall(r"\w+", "".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert used <= grouped | ADDED, f"{rule['alert']} keeps them"


def test_every_metric_is_told_with_its_type_and_labels() -> None:
    text = (ROOT / "docs/shared-machine.md").read_text()
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    there = {
        re.sub("_(bucket|sum|count)$", "", name) if kind == "histogram" else name: (
            kind,
            labels - {"le"},
        )
        for name, (kind, labels) in EXPORTED.items()
    }
    assert told == there
