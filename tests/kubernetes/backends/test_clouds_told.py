"""For each cloud: what a size becomes, what is asked, and what is told, as docs/clouds.md has it.

The nodes are those of ``shapes/clouds.json``, which names its sources. Nothing of it was run there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shapes import Shapes, facts

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes.backends import Facts, detect, make_backend
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = Shapes("clouds")
DOC = (Path(__file__).parents[3] / "docs" / "clouds.md").read_text("utf-8")
_HEAD = "| node | asked | the pod asks for | the notebook says |\n|---|---|---|---|\n"


def declared(**kind: Any) -> Facts:
    """A cluster that has no GPU now, and can have nodes of one kind."""
    return Facts(kinds=KubernetesEngine(kinds=[kind]).declared)


def example() -> dict[str, Any]:
    """The kind that docs/clouds.md declares for GKE."""
    text = re.search(r"c\.KubernetesEngine\.kinds = \[\n(.*?)\n\]", DOC, re.DOTALL)
    assert text
    kinds: list[dict[str, Any]] = ast.literal_eval(f"[{text[1]}]")
    return kinds[0]


AKS = facts(
    SHAPES.aks,
    placement=KubernetesEngine(tolerations=[{"key": "sku", "value": "gpu"}]).placement,
)
#: Nodes by the words for them in the page.
NODES: dict[str, Facts] = {
    "GKE, T4, time-sharing by 3": facts(SHAPES.gke_time_sharing),
    "GKE, L4, MPS by 4": facts(SHAPES.gke_mps),
    "GKE, L4": facts(SHAPES.gke_whole),
    "GKE, A100, partitions of 1g.5gb": facts(SHAPES.gke_mig),
    "Autopilot, the kind above": declared(**example()),
    "Autopilot, a kind of whole L4": declared(
        model="L4",
        memory="22GiB",
        node_selector={"cloud.google.com/gke-accelerator": "nvidia-l4"},
    ),
    "EKS, no labels": facts(SHAPES.eks),
    "EKS, Karpenter, 1 GPU": facts(SHAPES.eks_karpenter),
    "EKS, Karpenter, 4 units on 1 GPU": facts(SHAPES.eks_karpenter_slices),
    "EKS Auto Mode, 1 GPU": facts(SHAPES.eks_auto),
    "AKS, taint tolerated": AKS,
    "AKS, taint not tolerated": facts(SHAPES.aks),
    "AKS, Karpenter, 4 units on 1 GPU": facts(SHAPES.aks_karpenter_slices),
    "OpenShift": facts(SHAPES.openshift),
}


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Cells of the tables, without their marks."""
    for part in DOC.split(_HEAD)[1:]:
        for line in part.partition("\n\n")[0].splitlines():
            cells = [cell.strip().replace("`", "").strip("*") for cell in line.split("|")[1:-1]]
            node, asked, wanted, told = cells
            yield node, asked, wanted, told


def asked(node: str, size: str) -> tuple[str, str]:
    """What the pod of a size asks for, and what the notebook says."""
    known = NODES[node]
    names = detect(known)
    assert names, f"no backend is found for {node}"
    try:
        rendered = make_backend(names[0], {}).render(Size.parse(size), known)
    except NoGpuError as error:
        return "", str(error)
    pairs = [*rendered.limits.items(), *rendered.node_selector.items()]
    return ", ".join(f"{name}: {value}" for name, value in pairs), rendered.note


@pytest.mark.parametrize(("node", "size", "wanted", "told"), list(rows()))
def test_a_size_becomes_asks_and_tells_what_the_page_says(
    node: str, size: str, wanted: str, told: str
) -> None:
    pairs, words = asked(node, size)
    assert pairs == wanted.strip("-")
    if pairs:
        assert words == told.strip("-")
    else:
        assert words.startswith(told)
        assert len(told) > 20


def test_the_page_has_every_node_and_every_kind_of_answer() -> None:
    there = list(rows())
    assert {node for node, *_ in there} == set(NODES)
    for cloud in ("GKE", "Autopilot", "EKS", "AKS", "OpenShift"):
        own = [wanted for node, _, wanted, _ in there if node.startswith(cloud)]
        assert any(wanted != "-" for wanted in own)
    assert any(wanted == "-" for _, _, wanted, _ in there)
