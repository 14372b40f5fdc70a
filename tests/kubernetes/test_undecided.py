"""A server that starts while there is no GPU: what it knows grows with the cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes.api import Forbidden, Resource
from jupyter_gpu_share.engines.kubernetes.backends import Facts
from jupyter_gpu_share.errors import EngineError, NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = json.loads(
    Path(__file__).with_name("backends").joinpath("shapes", "device_plugin.json").read_text("utf-8")
)
QUARTER = Size.parse("1/4")


def dra(name: str) -> Any:
    shapes = Path(__file__).with_name("backends").joinpath("shapes", "dra.json")
    return json.loads(shapes.read_text("utf-8"))[name]


class Growing(Cluster):
    """A cluster whose nodes and slices are lists."""

    def __init__(self, settings: KubernetesEngine, *nodes: Any, forbidden: bool = False) -> None:
        self.settings = settings
        self.facts = Facts(
            groups=frozenset({"v1"}), placement=settings.placement, kinds=settings.declared
        )
        self.nodes = list(nodes)
        self.slices: list[Any] = []
        self.forbidden = forbidden
        self.claims = None
        self._read = {}
        self._refused = {}
        self._readings = {}
        self._reads = frozenset({"nodes", "resourceslices", "deviceclasses"})

    async def _list(self, resource: Resource) -> list[Any]:
        if resource.plural == "nodes" and self.forbidden:
            raise Forbidden("no")
        known = {"nodes": self.nodes, "resourceslices": self.slices}
        return list(known.get(resource.plural, ()))

    async def begin(self) -> None:
        """What `open` does of all this."""
        await self._read_old(120.0, slices=True)
        await self._decide()

    def later(self, seconds: float = 1000.0) -> None:
        """What was read is so much older."""
        self._read = {what: at - seconds for what, at in self._read.items()}


async def test_what_comes_after_the_server_is_found_when_it_is_asked_for() -> None:
    cluster = Growing(KubernetesEngine())
    await cluster.begin()
    assert cluster.undecided
    assert cluster.backend.capacity(cluster.facts) == []
    with pytest.raises(NoGpuError, match="No way to share GPUs was found"):
        await cluster.render(QUARTER)
    cluster.nodes.append(SHAPES["slices4"])
    cluster.later()
    assert (await cluster.render(QUARTER)).limits == {"nvidia.com/gpu": "1"}
    assert cluster.backend.name == "device-plugin"
    assert cluster.backend.room(QUARTER, await cluster.refresh()) == 8


async def test_a_server_that_may_read_no_nodes_starts_and_says_so_later() -> None:
    cluster = Growing(KubernetesEngine(), forbidden=True)
    await cluster.begin()
    with pytest.raises(NoGpuError, match="may not read nodes"):
        await cluster.render(QUARTER)
    (finding,) = cluster.backend.examine(cluster.facts)
    assert finding.level == "error"


async def test_a_refusal_counts_only_by_what_is_there_now() -> None:
    """A user who sees the node come and starts a kernel is not told that there is none."""
    cluster = Growing(KubernetesEngine(), SHAPES["mps10"])
    await cluster.begin()
    with pytest.raises(NoGpuError):
        await cluster.render(Size.parse("20GiB"))
    cluster.nodes.append(SHAPES["slices4"])
    cluster.later(2.0)
    assert (await cluster.render(Size.parse("20GiB"))).note == ""


async def test_declared_kinds_need_nothing_that_is_there() -> None:
    kind = {"memory": "80GiB", "sharing": "mps", "replicas": 4, "node_selector": {"pool": "a"}}
    for forbidden in (False, True):
        cluster = Growing(KubernetesEngine(kinds=[kind]), forbidden=forbidden)
        await cluster.begin()
        assert not cluster.undecided
        assert (await cluster.render(QUARTER)).node_selector == {"pool": "a"}


@pytest.mark.parametrize("style", ["pod", "lease", "annotation"])
async def test_no_style_keeps_the_server_from_starting(style: str) -> None:
    cluster = Growing(KubernetesEngine(style=style))
    await cluster.begin()
    assert cluster.undecided


async def test_a_node_that_has_just_come_is_read_when_a_kernel_is_placed_there() -> None:
    """Else its share has neither a model nor an amount of memory to keep to."""
    cluster = Growing(KubernetesEngine(), SHAPES["whole"])
    await cluster.begin()
    new = json.loads(json.dumps(SHAPES["slices4"]))
    new["metadata"]["name"] = "just-come"
    cluster.nodes.append(new)
    await cluster.refresh(0.0)
    assert new not in cluster.facts.nodes, "what was read just now is not read again"
    await cluster.know_node("just-come")
    assert new in cluster.facts.nodes
    cluster.nodes.clear()
    await cluster.know_node("just-come")
    assert new in cluster.facts.nodes, "a node that is known is not read again"


async def test_a_node_whose_gpus_are_not_known_yet_is_read_again() -> None:
    """It is there before a device plugin, or a DRA driver, makes its GPUs known."""
    bare = json.loads(json.dumps(SHAPES["slices4"]))
    bare["status"]["allocatable"] = {}
    cluster = Growing(KubernetesEngine(), SHAPES["whole"], bare)
    await cluster.begin()
    cluster.nodes[1] = SHAPES["slices4"]
    await cluster.know_node(bare["metadata"]["name"])
    assert SHAPES["slices4"] in cluster.facts.nodes


async def test_devices_of_a_node_that_has_just_come_are_read_when_they_are_needed() -> None:
    new, later = dra("shared80"), dra("shared40")
    cluster = Growing(KubernetesEngine())
    cluster.facts = replace(cluster.facts, groups=frozenset({"v1", "resource.k8s.io/v1"}))
    cluster.slices.append(new)
    cluster.nodes += [{"metadata": {"name": each["spec"]["nodeName"]}} for each in (new, later)]
    cluster.settings.backend = "dra"
    cluster.claims = object()  # type: ignore[assignment]
    await cluster.begin()
    cluster.slices.append(later)
    await cluster.know_node(new["spec"]["nodeName"])
    assert list(cluster.facts.slices) == [new], "what is known is not read again"
    await cluster.know_node(later["spec"]["nodeName"])
    assert list(cluster.facts.slices) == [new, later]


async def test_who_may_not_read_nodes_starts_kernels_all_the_same() -> None:
    cluster = Growing(KubernetesEngine(backend="device-plugin"), forbidden=True)
    await cluster.begin()
    await cluster.know_node("just-come")
    assert list(cluster.facts.nodes) == []


@pytest.mark.parametrize(
    ("settings", "backend"),
    [
        ({}, "device-plugin"),
        ({"style": "lease"}, "dra"),
        ({"backend": "dra"}, "dra"),
        ({"backend_options": {"driver": "gpu.nvidia.com"}}, "dra"),
        ({"backend_options": {"replicas": "4"}}, "device-plugin"),
    ],
)
async def test_what_is_set_decides_before_what_is_found(
    settings: dict[str, Any], backend: str
) -> None:
    whole = dra("whole")
    cluster = Growing(KubernetesEngine(**settings), SHAPES["slices4"])
    found = replace(cluster.facts, groups=frozenset({"resource.k8s.io/v1"}), slices=[whole])
    cluster.facts = replace(found, nodes=cluster.nodes)
    assert cluster._choose().name == backend


async def test_where_nothing_that_is_found_fits_it_is_said_why() -> None:
    cluster = Growing(KubernetesEngine(style="annotation"), SHAPES["slices4"])
    cluster.facts = replace(cluster.facts, nodes=cluster.nodes)
    with pytest.raises(EngineError, match="cannot hold shares in style 'annotation'"):
        cluster._choose()
