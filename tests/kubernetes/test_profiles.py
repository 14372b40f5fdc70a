"""What a size brings besides its share: an image, a pool of nodes, tolerations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plans import body
from traitlets import TraitError

from jupyter_gpu_share.engines.kubernetes import KubernetesEngine
from jupyter_gpu_share.engines.kubernetes._cluster import Cluster
from jupyter_gpu_share.engines.kubernetes._making import image_of, make
from jupyter_gpu_share.engines.kubernetes._objects import KernelPlan, Keys, Owner
from jupyter_gpu_share.engines.kubernetes._pods import Labels
from jupyter_gpu_share.engines.kubernetes.backends import (
    GPU_TOLERATION,
    DevicePluginBackend,
    Facts,
    Rendered,
)
from jupyter_gpu_share.errors import NoGpuError
from jupyter_gpu_share.size import Size

SHAPES = json.loads(
    Path(__file__).with_name("backends").joinpath("shapes", "device_plugin.json").read_text("utf-8")
)
QUARTER, WHOLE, NONE = Size.parse("1/4"), Size.parse("1"), Size.parse("0")
POOL = {"key": "pool", "operator": "Exists"}
A100 = {
    "model": "A100",
    "memory": "80GiB",
    "node_selector": {"pool": "a100"},
    "tolerations": [POOL],
}


def known(engine: KubernetesEngine, *nodes: Any) -> Cluster:
    cluster = Cluster.__new__(Cluster)
    cluster.settings = engine
    cluster.backend = DevicePluginBackend()
    cluster.facts = Facts(nodes=nodes, placement=engine.placement, kinds=engine.declared)
    return cluster


def in_pool(name: str, shape: str) -> Any:
    node = json.loads(json.dumps(SHAPES[shape]))
    node["metadata"]["labels"]["pool"] = name
    return node


def image(engine: KubernetesEngine, size: Size) -> str:
    request: Any = SimpleNamespace(size=size, kernel_name="r")
    return image_of(engine, request)


def test_a_size_is_the_same_however_it_is_written() -> None:
    engine = KubernetesEngine(image="all:1", images={"r": "r:1"}, sizes={"0.25": {"image": "q:1"}})
    assert image(engine, QUARTER) == image(engine, Size.parse("25%")) == "q:1"
    assert image(engine, WHOLE) == "r:1"


def test_a_size_goes_to_its_own_nodes_with_what_they_need() -> None:
    selector = {"pool": "cpu"}
    engine = KubernetesEngine(
        sizes={"0": {"node_selector": selector, "tolerations": [POOL]}}, node_selector={"zone": "a"}
    )
    rendered = engine.profile(NONE).on(Rendered())
    pod = body(size=NONE, rendered=rendered, patches=engine.additions)
    assert pod["spec"]["nodeSelector"] == {"zone": "a", **selector}
    assert pod["spec"]["tolerations"] == [POOL]
    rendered = engine.profile(QUARTER).on(Rendered(node_selector={"gpu": "t4"}))
    assert (rendered.node_selector, list(rendered.tolerations)) == ({"gpu": "t4"}, [])


async def test_the_pod_that_is_made_has_what_its_size_brings() -> None:
    engine = KubernetesEngine(
        sizes={"0": {"image": "cpu:1", "node_selector": {"pool": "cpu"}, "tolerations": [POOL]}}
    )
    made: list[Any] = []

    async def create(resource: Any, body: Any, namespace: str) -> Any:
        made.append(body)
        return {**body, "metadata": {**body["metadata"], "uid": "u"}}

    cluster: Any = SimpleNamespace(
        settings=engine,
        namespace="notebooks",
        files="gpu-share-files-1",
        backend=SimpleNamespace(name="auto"),
        api=SimpleNamespace(create=create),
    )
    plan = KernelPlan("k-1", "python3", NONE, keys=Keys(b"k"))
    await make(
        cluster, Owner("alice", "i"), plan, "k", Rendered(), {}, Labels("alice", "k-1", "attempt")
    )
    spec = made[0]["spec"]
    assert spec["containers"][0]["image"] == "cpu:1"
    # Nothing about the pod of a kernel without a GPU keeps it from nodes with Windows.
    wanted = {"kubernetes.io/os": "linux", "pool": "cpu"}
    assert (spec["nodeSelector"], spec["tolerations"]) == (wanted, [POOL])
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in spec["containers"][0]["env"]


async def test_what_is_there_for_a_size_is_what_its_nodes_have() -> None:
    engine = KubernetesEngine(sizes={"1/4": {"node_selector": {"pool": "two"}}})
    one, two = in_pool("one", "slices4"), in_pool("two", "whole")
    cluster = known(engine, one, two)
    assert (await cluster.render(QUARTER)).note == "1/4 becomes a whole GPU (79.6 GiB)."
    assert cluster.backend.room(QUARTER, cluster.facts_for(QUARTER)) == 4
    assert cluster.backend.room(QUARTER, cluster.facts) == 8
    assert (await cluster.render(Size.parse("1/5"))).note.startswith("1/5 becomes 1 of 4")
    with pytest.raises(NoGpuError):
        known(engine, one).backend.render(QUARTER, known(engine, one).facts_for(QUARTER))


async def test_a_size_can_name_the_model_of_a_declared_kind() -> None:
    small = {"model": "T4", "memory": "15GiB", "node_selector": {"pool": "t4"}}
    engine = KubernetesEngine(kinds=[small, A100], sizes={"1": {"model": "A100"}})
    cluster = known(engine)
    whole = await cluster.render(WHOLE)
    assert whole.node_selector == {"pool": "a100"}
    assert whole.note == ""
    assert whole.memory_bytes == 80 * 2**30
    assert (await cluster.render(Size.parse("1/2"))).node_selector == {"pool": "t4"}
    pod = body(size=WHOLE, rendered=replace(engine.profile(WHOLE).on(whole), claims=()))
    assert pod["spec"]["tolerations"] == [POOL, GPU_TOLERATION]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"many": {}}, "many is not a size"),
        ({"1/4": {}, "0.25": {}}, "1/4: it is there twice"),
        ({"1": {"imgae": "a"}}, "1: there is no imgae; there is image, model"),
        ({"1": {"image": 1}}, "image is a text, not 1"),
        ({"1": {"node_selector": {"a": 1}}}, "node_selector has texts only"),
        ({"1": {"tolerations": ["all"]}}, "tolerations are dicts"),
        ({"1": {"model": "H100"}}, "no entry of c.KubernetesEngine.kinds is of the model 'H100'"),
        ({"1": {"node_selector": {"zone": "b"}}}, "node_selector says something else of zone"),
    ],
)
def test_what_makes_no_sense_is_refused_at_the_start(sizes: Any, words: str) -> None:
    with pytest.raises(TraitError, match=words) as refused:
        KubernetesEngine(kinds=[A100], node_selector={"zone": "a"}, sizes=sizes)
    assert str(refused.value).startswith("c.KubernetesEngine.sizes")
    assert "\n" not in str(refused.value)
